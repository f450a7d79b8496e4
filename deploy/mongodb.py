"""Makes the mongod of docker-compose.yml a replica set of one with a user for Persona; run again, it sets that user's password."""

import os
import time

from pymongo import MongoClient
from pymongo.errors import OperationFailure

NOT_YET_INITIALIZED = 94
START_SECONDS = 60

host = os.environ["MONGODB_HOST"]
set_of_one = {"_id": "rs0", "members": [{"_id": 0, "host": host}]}
user = {"pwd": os.environ["MONGODB_PASSWORD"], "roles": [{"role": "readWrite", "db": "persona"}]}

with MongoClient[dict[str, object]](
    host,
    username="root",
    password=os.environ["MONGODB_ROOT_PASSWORD"],
    directConnection=True,  # the set may not be one yet
    serverSelectionTimeoutMS=START_SECONDS * 1000,
) as client:
    admin = client.admin
    try:
        admin.command("replSetGetStatus")
    except OperationFailure as error:
        if error.code != NOT_YET_INITIALIZED:
            raise
        admin.command("replSetInitiate", set_of_one)
    deadline = time.monotonic() + START_SECONDS
    while not admin.command("hello")["isWritablePrimary"]:
        if time.monotonic() > deadline:
            raise SystemExit(f"{host} did not become primary within {START_SECONDS} s")
        time.sleep(0.2)
    known = admin.command("usersInfo", "persona")["users"]
    admin.command("updateUser" if known else "createUser", "persona", **user)
