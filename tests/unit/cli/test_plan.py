from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cluster.cli.main import build
from cluster.cli.spec import LONGEST, parse_spec, this_machine
from cluster.core.errors import BadConfiguration
from cluster.placement.chips import CHIPS
from cluster.placement.links import LINKS
from cluster.placement.speed import FAST_FENCE, METAL_FENCE

ROOT = Path(__file__).resolve().parents[3]
SPECS = ROOT / "docs" / "plan"
QWEN = ROOT / "tests" / "unit" / "placement" / "configs" / "qwen3-235b-a22b-8bit.json"
GIB = 1 << 30


def plan(*arguments: str | Path, columns: int = 160) -> Result:
    runner = CliRunner(env={"COLUMNS": str(columns)})
    return runner.invoke(build("plan"), ["plan", *map(str, arguments)])


def studios(*arguments: str, columns: int = 160) -> Result:
    return plan(QWEN, "--nodes", SPECS / "four-m3-ultra.yaml", *arguments, columns=columns)


def test_four_studios() -> None:
    said = studios()
    assert said.exit_code == 0
    for fact in (
        "qwen3-235b-a22b-8bit.json, 233 GiB of weights (worked out from its config)",
        "1 sequence with a context of 32768 tokens",
        "predictions",
        "819 GB/s",
        "61.0 GiB of 384 GiB",
        "num_attention_heads is 64, which 3 does not divide",
        "docs/plan.md",
    ):
        assert fact in said.stdout
    chosen = next(line for line in said.stdout.splitlines() if line.startswith("*"))
    assert "4 tensor" in chosen
    assert chosen.rstrip().endswith("on studio-1, studio-2, studio-3, studio-4")
    assert said.stderr == ""


def test_unequal_stages(tmp_path: Path) -> None:
    """A machine with 64 GB and one with 128 GB, as docs/plan.md tells of them."""
    config = tmp_path / "config.json"
    config.write_text(QWEN.read_text().replace('"bits": 8', '"bits": 4'))
    said = plan(config, "--nodes", SPECS / "mini-and-studio.yaml")
    assert said.exit_code == 0
    lines = [" ".join(line.split()) for line in said.stdout.splitlines()]
    assert any(line.startswith("* 2 pipeline 43.6 GiB to 87.8 GiB") for line in lines)
    page = (ROOT / "docs" / "plan.md").read_text()
    stages = lines[lines.index("Stages") + 2 :][:2]
    assert stages[0].startswith("63 (0 to 62) 1 studio 87.8 GiB of 96.0 GiB")
    assert stages[1].startswith("31 (63 to 93) 0 mini 43.6 GiB of 48.0 GiB")
    for line in stages:
        assert line in " ".join(page.split()), "docs/plan.md shows this"
    data = json.loads(plan(config, "--nodes", SPECS / "mini-and-studio.yaml", "--json").stdout)
    chosen = data["chosen"]
    assert chosen["layers"] == [31, 63]
    assert [stage["total"] < 96 * GIB for stage in chosen["stages"]] == [True, True]
    assert studios("--json").stdout.count('"layers": []') == 8, "equal everywhere else"


@pytest.mark.parametrize("columns", [60, 80, 110, 200])
def test_any_terminal_is_wide_enough(columns: int) -> None:
    lines = studios(columns=columns).stdout.splitlines()
    assert max(map(len, lines)) <= columns
    assert any(line.startswith("*") and " 34.0" in line for line in lines)
    assert ("weights + KV + working" in "\n".join(lines)) == (columns >= 110)


def test_for_programs() -> None:
    said = studios("--json", "--context", "65536", "--concurrency", "4", "--kv-bits", "8")
    assert said.exit_code == 0
    data: dict[str, Any] = json.loads(said.stdout)
    assert data["demand"] == {
        "context": 65536, "sequences": 4, "kv_bits": 8, "parallel": "auto",
    }  # fmt: skip
    assert data["weights_from"] == "config"
    chosen = data["chosen"]
    assert (chosen["world"], chosen["kind"], chosen["reason"]) == (4, "tensor", "")
    assert chosen["nodes"] == ["studio-1", "studio-2", "studio-3", "studio-4"]
    parts = chosen["memory"]
    assert parts["total"] == parts["weights"] + parts["kv"] + parts["working"]
    assert 25 < chosen["predicted"]["decode"] < 40
    assert chosen in data["considered"]
    assert len(data["considered"]) == 7


def test_slow_fences_are_told_of(tmp_path: Path) -> None:
    spec = tmp_path / "slow.yaml"
    spec.write_text(
        (SPECS / "four-m3-ultra.yaml").read_text().replace("synch: true", "synch: false")
    )
    said = plan(QWEN, "--nodes", spec)
    assert "1 rank would be faster: 20.3 tok/s, with --fastest." in said.stdout
    assert "ranks wait 63% for each other" in said.stdout
    chosen = json.loads(plan(QWEN, "--nodes", spec, "--fastest", "--json").stdout)["chosen"]
    assert chosen["world"] == 1


def test_what_does_not_fit_is_a_table_and_a_line() -> None:
    said = plan(QWEN, "--nodes", SPECS / "two-macs.yaml")
    assert said.exit_code == 1
    assert "each of 2 ranks needs" in said.stdout
    assert said.stderr.startswith("tandem: this qwen3_moe model (232.63 GiB of weights)")
    assert "mini (56.00 GiB usable), air (16.00 GiB usable)" in said.stderr
    assert "What would fit: " in said.stderr
    assert said.stderr.count("\n") == 1
    data = json.loads(plan(QWEN, "--nodes", SPECS / "two-macs.yaml", "--json").stdout)
    assert data["chosen"] is None
    assert data["would_fit"]


def test_this_machine_and_the_demo() -> None:
    said = plan("demo", "--json")
    assert said.exit_code == 0
    data = json.loads(said.stdout)
    assert data["weights_from"] == "files"
    assert [node["id"] for node in data["nodes"]] == [this_machine().nodes[0].id]
    assert data["demand"]["context"] == 8192, "the model's own"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("nowhere/at/all",), "tandem: there is no folder nowhere/at/all"),
        (("demo", "--nodes", "none.yaml"), "tandem: can't read none.yaml: No such file"),
        (("demo", "--kv-bits", "3"), "tandem: a cache of 3 bits: only 8 and 4 are possible"),
    ],
)
def test_what_makes_no_sense_is_one_line(arguments: tuple[str, ...], line: str) -> None:
    said = plan(*arguments)
    assert said.exit_code == 1
    assert said.stderr.startswith(line)
    assert said.stderr.count("\n") == 1


def test_a_config_that_does_not_say_enough(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"model_type": "llama"}')
    assert "does not say how large it is" in plan(config).stderr
    config.write_text("{")
    assert "is not valid JSON" in plan(config).stderr
    assert "names no model_type" not in plan(config).stderr


MACS = """\
nodes:
  - name: mini
    chip: Apple M4 Pro
    memory: 64
    usable: 56
  - {name: box, chip: AMD EPYC, memory: 128, ranks: 2, bandwidth: 200, tflops: 3}
  - {name: gpu, chip: NVIDIA H100 80GB HBM3, memory: 80}
links:
  default: wifi
  between:
    - nodes: [mini, box]
      kind: ethernet
      latency_us: 120
      gbit: 10
"""


def test_a_spec() -> None:
    spec = parse_spec(MACS, "macs.yaml")
    mini, box, gpu = spec.nodes
    assert (mini.id, mini.usable_bytes, mini.chip) == ("mini", 56 * GIB, CHIPS["Apple M4 Pro"])
    assert (mini.fence, box.fence, gpu.fence) == (METAL_FENCE, 0.0, 0.0)
    assert (mini.fused, box.fused, gpu.fused) == (True, False, True)
    assert box.ranks == 2
    assert box.chip
    assert (box.chip.bandwidth, box.chip.flops) == (200e9, 3e12)
    assert 115 * GIB < box.usable_bytes < 116 * GIB, "a tenth is left to others"
    assert gpu.usable_bytes == 80 * GIB
    assert spec.links.between("box", "mini").latency == pytest.approx(120e-6)
    assert spec.links.between("box", "mini").throughput == pytest.approx(1.25e9)
    assert spec.links.between("box", "gpu") == LINKS["wifi"]
    fast = parse_spec(MACS + "fast_synch: true\n", "macs.yaml")
    assert [node.fence for node in fast.nodes] == [FAST_FENCE, 0.0, 0.0]


@pytest.mark.parametrize("path", sorted(SPECS.glob("*.yaml")), ids=lambda path: path.name)
def test_the_examples_are_read(path: Path) -> None:
    assert parse_spec(path.read_text(), path.name).nodes


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (MACS, "", "macs.yaml is empty"),
        (MACS, "- 1", "macs.yaml line 1: this should have keys and values (nodes, links"),
        (MACS, "nodes: []", "macs.yaml line 1: this should be a list of nodes"),
        (MACS, "links: {default: wifi}", "macs.yaml line 1: nodes is missing"),
        (MACS, "a: b: c", "macs.yaml line 1 is no YAML: mapping values are not allowed here"),
        (MACS, "a: \x07", "macs.yaml is no YAML"),
        (MACS, "[" * 20000, "macs.yaml is nested too deeply"),
        ("nodes:\n", "node:\n", "line 1: node is not known here: it is one of nodes, links"),
        ("usable: 56", "usble: 56", "line 5: usble is not known here"),
        (
            "usable: 56",
            "usable: 65",
            "line 5: this should be a number of GiB, above 0 and up",
        ),
        ("usable: 56", "memory: 56", "line 5: memory is given twice"),
        ("memory: 64", "memory: much", "line 4: this should be a number of GiB"),
        ("memory: 64", "memory: .nan", "line 4: this should be a number of GiB"),
        ("memory: 64", "memory: -1", "line 4: this should be a number of GiB"),
        ("memory: 64", "memory: [64]", "line 4: this should be a number of GiB"),
        ("    chip: Apple M4 Pro\n", "", "line 2: chip is missing"),
        ("name: box", "name: mini", "line 6: there is a node mini already"),
        ("name: box", "name: ''", "line 6: this should be a name"),
        ("ranks: 2", "ranks: 0", "line 6: this should be a number of ranks, 1 to 64"),
        (", tflops: 3", "", "line 6: AMD EPYC is not known"),
        ("default: wifi", "default: carrier", "line 9: carrier is none of rdma, thunderbolt"),
        ("[mini, box]", "[mini, bix]", "line 11: bix is none of mini, box, gpu"),
        ("[mini, box]", "[mini, mini]", "line 11: a link joins two different nodes"),
        ("[mini, box]", "[mini, box, gpu]", "line 11: a link joins two different nodes"),
        ("      kind: ethernet\n", "", "line 11: kind is missing"),
        ("gbit: 10", "gbit: 0", "line 14: this should be a number of Gbit/s, above 0"),
        ("gbit: 10\n", "gbit: 10\nfast_synch: 1\n", "line 15: this should be true or false"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(old: str, new: str, message: str) -> None:
    assert old in MACS
    with pytest.raises(BadConfiguration) as caught:
        parse_spec(MACS.replace(old, new, 1), "macs.yaml")
    assert message in str(caught.value)


def test_a_file_that_is_no_spec(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    for content, line in (
        (b"\xff\xfe\x00", "is no text in UTF-8"),
        (b"#" * (LONGEST + 1), "has more than 65536 bytes"),
    ):
        path.write_bytes(content)
        said = plan("demo", "--nodes", path)
        assert said.exit_code == 1
        assert line in said.stderr
