"""The Dockerfile, without an engine: its steps run one after another in root file systems made for them."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from tars import make_manifest

ROOT = Path(__file__).parent.parent
VARIANTS = ("gpu", "light", "build")
LAST_USER = "10001:10001"


def steps() -> list[tuple[str, str]]:
    """Returns (instruction, what follows) of the Dockerfile."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def pins(variant: str) -> dict[str, str]:
    text = (ROOT / "docker" / f"requirements-{variant}.txt").read_text()
    return dict(re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_pin_has_a_hash_and_no_address(variant: str) -> None:
    text = (ROOT / "docker" / f"requirements-{variant}.txt").read_text()
    assert "://" not in text
    assert not re.search(r"^-", text, re.MULTILINE)
    for block in re.split(r"\n(?=\w)", text.strip()):
        assert re.fullmatch(r"[\w.-]+==\S+( ; [^\\]+)?( \\\n    --hash=sha256:[0-9a-f]{64})+", block), block[:80]


def test_the_pins_are_what_the_package_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    gpu, light = pins("gpu"), pins("light")
    for wanted in map(Requirement, project["dependencies"]):
        assert wanted.specifier.contains(gpu[wanted.name]), wanted
    assert light.items() <= gpu.items()
    assert not {"torch", "timm", "torchvision"} & set(light)


def test_it_runs_as_nobody_checks_its_health_and_starts_curate() -> None:
    last = dict(steps())
    assert last["USER"] == LAST_USER
    assert json.loads(last["ENTRYPOINT"]) == ["curate"]
    assert '["curate", "doctor", "--no-torch"]' in last["HEALTHCHECK"]


@dataclass
class Stage:
    """A root file system, and the settings that later steps see."""

    root: Path
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": "/usr/local/bin:/usr/bin:/bin"})
    folder: str = "/"
    user: str = "0:0"

    def run(self, command: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Runs a shell command in the root, with a /proc and nothing else of the machine."""
        inside = f"cd {self.folder} && {command}"
        mount = 'mount -t proc proc "$1/proc" && exec chroot --userspec="$2" "$1" /bin/sh -c "$3"'
        words = ["unshare", "--mount", "--pid", "--fork", "sh", "-c", mount, "sh", str(self.root), self.user, inside]
        environment = {**self.environment, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheelhouse", **more}
        # The machine's own tools start the root; inside, only the image's PATH counts.
        environment["PATH"] += ":/usr/sbin:/sbin"
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)


def libraries(paths: list[Path]) -> set[str]:
    """Returns the shared libraries that programs ask for."""
    found = subprocess.run(["ldd", *map(str, paths)], capture_output=True, text=True, check=False).stdout
    return set(re.findall(r"(/\S+\.so\S*) \(0x", found))


def base_image(root: Path, wheelhouse: Path) -> Path:
    """Makes what `python:3.11-slim` offers: a Python without packages, a shell, chown."""
    prefix, version = Path(sys.base_prefix), f"python{sys.version_info.major}.{sys.version_info.minor}"
    skip = shutil.ignore_patterns("site-packages", "test", "__pycache__", "idlelib")
    shutil.copytree(prefix / "lib" / version, root / "usr/local/lib" / version, ignore=skip, symlinks=True)
    for folder in ("usr/local/bin", "bin", "usr/bin", "proc", "dev", "tmp", "etc"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    shutil.copy(prefix / "bin" / version, root / "usr/local/bin" / version)
    for name in ("python", "python3"):
        (root / "usr/local/bin" / name).symlink_to(version)
    tools = [Path(shutil.which(name) or name).resolve() for name in ("sh", "chown")]
    for name, tool in zip(("sh", "chown"), tools, strict=True):
        shutil.copy(tool, root / "bin" / name)
    dynamic = [*(prefix / "lib" / version / "lib-dynload").glob("*.so"), prefix / "bin" / version, *tools]
    # What wheels may take for granted (manylinux): glibc's parts, zlib and the compiler's runtime.
    parts = ("librt.so.1", "libpthread.so.0", "libdl.so.2", "libutil.so.1", "libm.so.6", "libresolv.so.2", "libz.so.1")
    folder = Path("/usr/lib/x86_64-linux-gnu")
    runtime = [folder / name for name in (*parts, "libstdc++.so.6", "libgcc_s.so.1")]
    for library in {*libraries([*dynamic, *runtime]), *map(str, runtime)}:
        target = root / library.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)
    for name in ("null", "urandom"):
        subprocess.run(["cp", "-a", f"/dev/{name}", str(root / "dev" / name)], check=True)
    shutil.copytree(wheelhouse, root / "wheelhouse", copy_function=os.link)
    return root


def copy(stage: Stage, rest: str, stages: dict[str, Stage], variant: str) -> None:
    words = shlex.split(rest.replace("${VARIANT}", variant))
    source = ROOT
    if words[0].startswith("--from="):
        source = stages[words.pop(0).removeprefix("--from=")].root
    *names, target = words
    for name in names:
        path, out = source / name.lstrip("/"), stage.root / f"{stage.folder}/{target}".lstrip("/")
        if target.startswith("/"):
            out = stage.root / target.lstrip("/")
        if path.is_dir():
            shutil.copytree(path, out, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            out.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, out)


def build(folder: Path, wheelhouse: Path, variant: str) -> Stage:
    """Runs every step of the Dockerfile; returns its last stage."""
    stages: dict[str, Stage] = {}
    stage = Stage(folder)
    for number, (word, rest) in enumerate(steps()):
        if word == "FROM":
            name = rest.partition(" AS ")[2] or "last"
            stage = stages[name] = Stage(base_image(folder / name, wheelhouse))
        elif word == "ENV":
            pairs = (pair.split("=", 1) for pair in shlex.split(rest))
            stage.environment |= {key: value.replace("$PATH", stage.environment["PATH"]) for key, value in pairs}
        elif word == "WORKDIR":
            stage.folder = rest
            (stage.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif word == "COPY":
            copy(stage, rest, stages, variant)
        elif word == "USER":
            stage.user = rest
        elif word == "RUN":
            result = stage.run(rest, VARIANT=variant)
            assert result.returncode == 0, f"step {number}, {rest}: {result.stdout[-2000:]} {result.stderr[-2000:]}"
    return stage


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root and unshare")
def test_the_light_image_is_built_and_works(tmp_path: Path) -> None:
    wheelhouse = tmp_path / "wheelhouse"
    for variant in ("light", "build"):
        pip = [str(Path(sys.base_prefix) / "bin" / "python3"), "-m", "pip"]
        words = [*pip, "download", "--quiet", "--require-hashes", "--only-binary", ":all:"]
        lock = ROOT / "docker" / f"requirements-{variant}.txt"
        subprocess.run([*words, "-r", str(lock), "-d", str(wheelhouse)], check=True)
    image = build(tmp_path / "stages", wheelhouse, "light")
    assert image.user == LAST_USER

    health = image.run(shlex.join(json.loads(dict(steps())["HEALTHCHECK"].partition("CMD ")[2])))
    assert health.returncode == 0, health.stdout + health.stderr
    assert "ok       self-test" in health.stdout
    assert "warning  torch: not installed" in health.stdout

    made = make_manifest(tmp_path / "made", {"a.tar": [f"k{n}" for n in range(8)]}, ["k1", "k2", "k5"])
    shutil.copytree(tmp_path / "made" / "pool", image.root / "work" / "pool")
    shutil.copy(made.parent / "s.parquet", image.root / "work" / "s.parquet")
    (image.root / "work" / "gates.toml").write_text("[gates]\nmax_drop = 0.5\n")
    prune = "curate prune --scores s.parquet --index index --fn s --keep 3 --out m"
    job = image.run(f"curate index pool --out index && {prune} && curate verify m && curate check m --gates gates.toml")
    assert job.returncode == 3, job.stdout + job.stderr
    assert "1 of 1 gates failed" in job.stdout
    digest = re.search("digest: ([0-9a-f]{32})", job.stdout)
    assert digest
    outside = json.loads((made / "manifest.json").read_text())["pool"]["fingerprint"]
    assert json.loads((image.root / "work" / "m" / "manifest.json").read_text())["pool"]["fingerprint"] == outside
    assert (image.root / "work" / "m" / "manifest.json").read_bytes() == (made / "manifest.json").read_bytes()
    assert (image.root / "work" / "m").stat().st_uid == 10001

    score = image.run("curate score pool")
    assert (score.returncode, "Traceback" in score.stderr) == (1, False)
    assert "is not installed here" in score.stderr
    assert image.run("curate --help").returncode == 0
    assert image.run("touch /opt/curate/x").returncode != 0
    size = sum(path.lstat().st_size for path in (image.root / "opt" / "curate").rglob("*"))
    print(f"/opt/curate: {size / 2**20:.0f} MiB")  # noqa: T201  (for who measures)
