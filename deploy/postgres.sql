-- Two databases, each with a user of its own. The image runs this once, on an empty volume.
\getenv warehouse_password WAREHOUSE_PASSWORD
\getenv dagster_password DAGSTER_PASSWORD

CREATE ROLE warehouse LOGIN PASSWORD :'warehouse_password';
CREATE DATABASE warehouse OWNER warehouse;
REVOKE ALL ON DATABASE warehouse FROM PUBLIC;

CREATE ROLE dagster LOGIN PASSWORD :'dagster_password';
CREATE DATABASE dagster OWNER dagster;
REVOKE ALL ON DATABASE dagster FROM PUBLIC;
