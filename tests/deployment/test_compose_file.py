"""What docker-compose.yml promises, read from the file alone: nothing is started here."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from dotenv import dotenv_values

from persona.settings import Settings
from persona_cli import platform
from tests.deployment.composed import (
    FILE,
    GIVEN,
    ONCE,
    ROOT,
    SECRETS,
    STORES,
    command_of,
    composed,
    environment_of,
    ours,
    services,
    used,
    with_secrets,
)

SECRET = re.compile(r"PASSWORD|_KEYS?$|TOKEN|AUTH$|SECRET")
A_RELEASE = re.compile(r"v?\d+\.\d+(\.\d+)?(-\w+)?")
NOT_FOR_CONTAINERS = {
    "MILVUS_HOST": "MILVUS_URI is set",
    "MILVUS_PORT": "MILVUS_URI is set",
    "MONGODB_DATABASE": "the user has rights on the one that is the default",
    "NEO4J_USER": "the image knows one, the default",
    "NEO4J_DATABASE": "the community edition has one, the default",
    "SQLITE_PATH": "WAREHOUSE_URL is set",
    "PERSONA_DAGSTER_PORT": "the port on this machine",
    "PERSONA_CA_FILE": "these stores speak no TLS",
}
OF_DAGSTER = {"DAGSTER_HOME", "PERSONA_DAGSTER_STORAGE_URL"}


def check_schema(file: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / "check-jsonschema"
    command = [program, "--builtin-schema", "vendor.compose-spec", file]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_it_is_a_compose_file() -> None:
    checked = check_schema(FILE)
    assert checked.returncode == 0, checked.stdout


def test_what_is_none_is_told_from_one(tmp_path: Path) -> None:
    document = yaml.safe_load(FILE.read_text())
    document["services"]["code"]["depends_on"]["redis"]["condition"] = "service_well"
    other = tmp_path / "docker-compose.yml"
    other.write_text(yaml.safe_dump(document))
    assert "service_well" in check_schema(other).stdout


def test_every_image_is_of_one_release() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for name, service in services().items():
        image, _, tag = service["image"].rpartition(":")
        assert image and A_RELEASE.fullmatch(tag), name
    assert {service["image"] for service in ours().values()} == {f"persona:{version}"}
    assert set(services()) - set(ours()) == STORES


def test_the_api_is_what_others_reach_and_dagster_what_this_machine_does() -> None:
    published = {name: service["ports"] for name, service in services().items() if "ports" in service}
    assert published == {"serving": ["8000:8000"], "webserver": ["127.0.0.1:3000:3000"]}
    assert not any("network_mode" in service or service.get("privileged") for service in services().values())


def test_stores_are_on_a_network_without_a_way_out() -> None:
    assert with_secrets()["networks"]["stores"] == {"internal": True}
    assert all(services()[name]["networks"] == ["stores"] for name in STORES)


def test_who_waits_says_what_for_and_it_can_come_about() -> None:
    everything = services()
    for name, service in everything.items():
        for other, dependency in service.get("depends_on", {}).items():
            if dependency["condition"] == "service_completed_successfully":
                assert other in ONCE, (name, other)
            else:
                assert dependency["condition"] == "service_healthy" and "healthcheck" in everything[other], (name, other)


@pytest.mark.parametrize("name", ["code", "serving", "pipeline"])
def test_who_uses_the_stores_waits_for_all_of_them(name: str) -> None:
    awaited, asked = set(), [name]
    while asked:
        needed = services()[asked.pop()].get("depends_on", {})
        awaited |= set(needed)
        asked += needed
    assert awaited >= STORES | {"mongodb-init"}


def test_what_stays_is_looked_after_and_what_ends_is_not_begun_again() -> None:
    for name, service in services().items():
        once = name in ONCE
        assert service["restart"] == ("no" if once else "unless-stopped"), name
        assert ("healthcheck" in service) is not once, name
        limits = service["deploy"]["resources"]["limits"]
        assert 0 < float(limits["cpus"]) <= 2 and re.fullmatch(r"\d+[mg]", limits["memory"]), name


def test_what_is_kept_is_on_named_volumes() -> None:
    named = set(with_secrets()["volumes"])
    mounted = [volume for service in services().values() for volume in service.get("volumes", [])]
    short = [volume.split(":") for volume in mounted if isinstance(volume, str)]
    volumes = {source for source, *_ in short if not source.startswith(".")}
    volumes |= {volume["source"] for volume in mounted if isinstance(volume, dict) and volume["type"] == "volume"}
    assert volumes == named
    for source, _, *mode in short:
        assert not source.startswith(".") or (mode == ["ro"] and (ROOT / source).is_file()), source


def test_claimed_drops_and_the_inbox_are_shared_by_whoever_takes_them_in() -> None:
    everything = services()
    for name in ("code", "serving", "pipeline"):
        targets = {volume["target"] for volume in everything[name]["volumes"]}
        assert targets == {everything[name]["environment"][f"PERSONA_{part}"] for part in ("HOME", "DROPS", "CATALOG")}
    for name in ("migrate", "webserver", "daemon"):
        [volume] = everything[name]["volumes"]
        assert Path(everything[name]["environment"]["DAGSTER_HOME"]).is_relative_to(volume["target"])


def test_our_containers_may_do_little() -> None:
    for name, service in ours().items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"] and "user" not in service, name
        assert service["security_opt"] == ["no-new-privileges:true"] and service["init"], name


def test_nothing_secret_has_a_default() -> None:
    for name, ways in used().items():
        assert not SECRET.search(name) or all(otherwise == ":?" for otherwise, _ in ways), name
    for service in services().values():
        for name, value in service["environment"].items():
            if SECRET.search(name) or name.endswith(("_URI", "_URL")):
                without_login = value is None or re.fullmatch(r"(http|bolt)://\w+:\d+", value)
                assert without_login or any(given in value for given in GIVEN.values()), name


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("value", [None, ""])
def test_without_a_secret_nothing_starts_and_it_is_said_which(name: str, value: str | None) -> None:
    given = {other: word for other, word in GIVEN.items() if other != name} | ({} if value is None else {name: value})
    with pytest.raises(ValueError, match=f"{name} is missing a value: set it in .env, as .env.example shows"):
        composed(given)


def test_each_store_has_a_password_of_its_own_and_users_have_theirs() -> None:
    assert len(SECRETS) == 9
    addresses = environment_of(services()["serving"])
    logins = [
        value for name, value in addresses.items() if name != "PERSONA_API_KEYS" and any(word in value for word in GIVEN.values())
    ]
    assert len(logins) == 5
    for administrator in ("MONGODB_ROOT_PASSWORD", "POSTGRES_PASSWORD"):
        holders = {name for name, service in services().items() if GIVEN[administrator] in str(service)}
        assert holders <= {"mongodb", "mongodb-init", "postgres"}
    for name in ("webserver", "daemon", "migrate"):
        assert [word for word in GIVEN.values() if word in str(services()[name])] == [GIVEN["DAGSTER_PASSWORD"]], name


def test_every_variable_is_explained() -> None:
    explained = set(re.findall(r"^#?(\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    passed_on = {name for service in services().values() for name, value in service["environment"].items() if value is None}
    assert set(used()) | passed_on <= explained


def test_what_is_told_of_the_installation_makes_every_password(tmp_path: Path) -> None:
    [line] = re.findall(r"^for store in .*$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    subprocess.run(["/bin/sh", "-euc", line], cwd=tmp_path, check=True, timeout=30)
    made = dotenv_values(tmp_path / ".env")
    assert set(made) == set(SECRETS) - {"PERSONA_API_KEYS"} and len(set(made.values())) == len(made)
    composed(GIVEN | made)


def test_every_setting_reaches_the_containers_and_no_other() -> None:
    prefix = Settings.model_config["env_prefix"]
    settings = {str(field.validation_alias or f"{prefix}{name.upper()}") for name, field in Settings.model_fields.items()}
    set_somewhere = {name for service in ours().values() for name in service["environment"]}
    assert settings - set_somewhere - set(NOT_FOR_CONTAINERS) - OF_DAGSTER == set()
    of_mongodb = set(services()["mongodb-init"]["environment"])
    assert set_somewhere - settings - OF_DAGSTER - of_mongodb == set()


def test_runs_and_answers_have_the_same_settings() -> None:
    code, serving, pipeline = (services()[name]["environment"] for name in ("code", "serving", "pipeline"))
    shared = set(code) & set(serving)
    assert {name: code[name] for name in shared} == {name: serving[name] for name in shared}
    assert code == pipeline and set(code) - shared == OF_DAGSTER


def test_containers_run_what_runs_without_them(tmp_path: Path) -> None:
    ports = {"code": 4000, "webserver": 3000, "api": 8000}
    urls = {"mongodb_uri": "mongodb://m", "milvus_uri": "http://m", "neo4j_uri": "bolt://n", "redis_url": "redis://r"}
    settings = Settings(home=tmp_path, _env_file=None, **urls)
    specs = {spec.name: spec.argv[2:] for spec in platform._services(settings, ports)}
    programs = {"dagster": "dagster", "dagster_webserver": "dagster-webserver", "dagster._daemon": "dagster-daemon"}
    for name in ("code", "webserver", "daemon"):
        module, *arguments = specs[name]
        inside = {"127.0.0.1": "0.0.0.0", str(platform._workspace(settings)): "deploy/workspace.yaml"}
        assert command_of(services()[name]) == [programs[module], *(inside.get(word, word) for word in arguments)], name
    assert ["persona_cli.main", *command_of(services()["serving"])[1:]] == list(specs["api"])
    [location] = yaml.safe_load((ROOT / "deploy" / "workspace.yaml").read_text())["load_from"]
    assert location == {"grpc_server": {"host": "code", "port": 4000, "location_name": platform.LOCATION}}
    assert services()["code"]["hostname"] == "code"
