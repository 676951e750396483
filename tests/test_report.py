import json
import math
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from compressor import accuracy, figures, report
from compressor.curve import curve
from compressor.figures import NONE

ROW = {
    "version": "2.15.0",
    "provider": "CPU",
    "device": "cpu",
    "threads": 1,
    "samples": 359,
    "max_error": 2e-6,
    "sigma": 1e-6,
    "agreement": 1.0,
    "accuracy": 0.97,
    "milliseconds_dense": 0.08,
}


def example(**changes):
    whole = {
        "version": 1,
        "recipe": {
            "seed": 0,
            "model": {"name": "lenet-300-100"},
            "data": {"name": "digits"},
            "prune": {"method": "asni"},
            "tune": {"enabled": True, "tied": True, "start": "trained"},
        },
        "environment": {"versions": {"torch": "2.15.0"}, "threads": 2},
        "accuracy_samples": 359,
        "density": {"asked": 0.05, "kept": 2510, "total": 50200, "all_parameters": 50610},
        "accuracy": {"dense": 0.98, "asni1": 0.96, "final": 0.97},
        "epochs": [
            {"stage": stage, "epoch": e, "loss": 1.0, "accuracy": 0.7 + 0.05 * e, "density": 1 - 0.1 * e}
            for stage in ("dense", "prune")
            for e in range(4)
        ],
        "bytes": {
            "dense": 202_900,
            "gzip": 23_100,
            "packed": 8_900,
            "bound": 5_200,
            "onnx_dense": 203_900,
            "onnx_compact": 9_800,
            "formats": {"csr": 18_300, "bitmask": 17_900, "asni2": 8_900},
        },
        "layers": [
            {
                "name": "fc1.weight",
                "shape": [300, 64],
                "kept": 912,
                "total": 19200,
                "format": "asni2",
                "bytes": 2600,
            },
            {"name": "fc1.bias", "shape": [300], "kept": 300, "total": 300, "format": "dense", "bytes": 1200},
        ],
        "verification": {
            "passed": True,
            "checks": [
                {
                    "check": name,
                    "runtime": None,
                    "tensor": None,
                    "passed": True,
                    "value": None,
                    "limit": None,
                    "message": "",
                }
                for name in ("structure", "bits", "outputs", "decisions")
            ],
            "runtimes": [
                ROW
                | {"runtime": "torch_cpu", "ran": True, "reason": "", "ratio": 1.92, "milliseconds": 0.081},
                {"runtime": "torch_cuda", "ran": False, "reason": "no CUDA device here"},
            ],
        },
    }
    return whole | changes


def shown(renderable):
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(renderable)
    return console.export_text()


class Checker(HTMLParser):
    """Collects open tags, and whatever a page could load or run."""

    def __init__(self):
        super().__init__()
        self.open, self.loads = [], []

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "br"):
            self.open.append(tag)
        self.handle_startendtag(tag, attributes)

    def handle_startendtag(self, tag, attributes):
        self.loads += [
            (tag, name) for name, _ in attributes if name in ("src", "href") or name.startswith("on")
        ]
        if tag in ("script", "link", "img", "iframe"):
            self.loads.append((tag, ""))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_loads_and_runs_nothing():
    for made in (example(), {}):
        checker = Checker()
        checker.feed(report.render_html(made))
        assert checker.open == []
        assert checker.loads == []
        assert "url(" not in report.render_html(made)


def test_the_same_report_gives_the_same_bytes():
    assert report.render_html(example()) == report.render_html(example())


def test_the_first_screen_answers_the_three_questions():
    smaller, same, faster = (f(example()) for f in (figures.smaller, figures.same, figures.faster))
    assert smaller.head == "22.8\u00d7 smaller"
    assert same.head == "Yes, verified on 1 runtime"
    assert faster.head == "No: as fast as dense"
    page = report.render_html(example())
    heads = [page.index(answer.head) for answer in (smaller, same, faster)]
    assert heads == sorted(heads)
    assert heads[-1] < page.index("98.00 ± 0.74 %") < page.index("Accuracy and density along")


def test_accuracies_carry_the_standard_error_of_a_binomial_share():
    rows = {row.key: row for row in accuracy.accuracies(example())}
    assert rows["dense"].error == pytest.approx(math.sqrt(0.98 * 0.02 / 359))
    assert rows["final"].text == "97.00 ± 0.90 %"
    assert accuracy.accuracies(example(accuracy_samples=None))[0].text == "98.00 %"
    assert accuracy.samples(example(accuracy_samples=None, data={"test_samples": 10})) == 10


@pytest.mark.parametrize(
    ("tune", "name"),
    [
        ({"enabled": True, "tied": True, "start": "trained"}, "two-level network as shipped"),
        ({"enabled": True, "tied": False, "start": "levels"}, "trained freely from the ASNI-II start"),
        ({"enabled": True, "tied": False, "start": "trained"}, "sparse network as shipped"),
        ({"enabled": False, "tied": True, "start": "trained"}, "sparse network as shipped"),
    ],
)
def test_only_a_tied_network_is_called_two_level(tune, name):
    made = example(recipe=example()["recipe"] | {"tune": tune})
    assert name in report.render_html(made)
    assert ("two-level" in report.render_html(made)) == (name == "two-level network as shipped")
    assert name in shown(report.summary(made))


def test_an_edge_popup_network_is_called_what_it_is():
    recipe = example()["recipe"] | {"prune": {"method": "edge-popup"}, "tune": {"enabled": False}}
    text = shown(report.summary(example(recipe=recipe)))
    assert "edge-popup network as shipped" in text
    assert "before tuning" not in text


ROUNDS = [
    {"round": n, "density": 0.5**n, "kept": 25100 // n, "accuracy": 0.98 - 0.01 * n, "validation": 0.97,
     "packed": 90_000 // n, "shipped": n == 2, "control": None if n == 3 else 0.985}
    for n in (1, 2, 3)
]  # fmt: skip


def test_the_rounds_are_one_table_in_which_the_one_that_ships_is_marked():
    made = example(rounds=ROUNDS)
    page, text = report.render_html(made), shown(report.summary(made))
    for part in ("12.5 %", "95.00 %", "30.0 kB", "98.50 %", "ships", "over max_drop"):
        assert part in page
        assert part in text
    assert page.count('<tr class="ships">') == 1
    for row in accuracy.rounds(made):
        assert list(row) == ["", "round", "density", "accuracy", "packed", "control", "validation"]
    assert "Rounds of" not in report.render_html(example())


def test_the_rounds_stand_below_the_dense_network_that_they_are_held_against():
    made = example(rounds=ROUNDS, validation={"dense": 0.9625, "final": 0.97})
    first = accuracy.rounds(made)[0]
    assert list(first.values()) == ["", "dense", "100 %", "98.00 %", "203 kB", NONE, "96.25 %"]
    assert "96.25 %" in report.render_html(made)
    assert "96.25 %" in shown(report.summary(made))


def test_a_round_that_collapsed_says_so_and_has_no_figures():
    last = {"round": 3, "density": 0.01, "kept": 502, "shipped": False, "collapse": "round 3 of 4: ..."}
    made = example(rounds=[*ROUNDS[:2], last])
    assert list(accuracy.rounds(made)[-1].values()) == ["layer collapse", "3", "1 %", *[NONE] * 4]
    assert "layer collapse" in report.render_html(made)


def test_a_column_that_no_round_has_is_left_out():
    bare = [row | {"control": None, "validation": None} for row in ROUNDS]
    assert list(accuracy.rounds(example(rounds=bare))[0]) == ["", "round", "density", "accuracy", "packed"]
    assert "Control:" not in report.render_html(example(rounds=bare))


def test_the_control_stands_right_beside_the_dense_network_with_its_epochs():
    found = {"dense": 0.98, "control": 0.985, "pruned": 0.5, "final": 0.99}
    made = example(accuracy=found, accuracy_epochs={"dense": 12, "control": 32, "final": 32})
    assert [(row.key, row.epochs) for row in accuracy.accuracies(made)] == [
        ("dense", 12),
        ("control", 32),
        ("pruned", None),
        ("final", 32),
    ]
    page, text = report.render_html(made), shown(report.summary(made))
    assert page.index("98.00 ±") < page.index("98.50 ±") < page.index("50.00 ±")
    assert "32 epochs" in page
    assert re.search(r"control: dense, trained as long\s+98.50 ± 0.64 %\s+32", text)
    assert "control" in shown(report.sweep_table({"a": made, "b": example()})).splitlines()[0]
    assert "control" not in shown(report.sweep_table({"a": example()})).splitlines()[0]


@pytest.mark.parametrize(
    ("found", "epochs", "warned"),
    [
        ({"dense": 0.98, "final": 0.99}, {"dense": 12, "final": 32}, True),
        ({"given": 0.98, "dense": 0.98, "final": 0.99}, {"dense": 0, "final": 10}, True),
        ({"dense": 0.98, "final": 0.98}, {"dense": 12, "final": 32}, False),  # no gain to explain
        ({"dense": 0.98, "final": 0.99}, {"dense": 32, "final": 32}, False),  # trained as long
        ({"dense": 0.98, "control": 0.97, "final": 0.99}, {"dense": 12, "final": 32}, False),
        ({"final": 0.99}, {"final": 32}, False),
    ],
)
def test_no_report_lets_sparse_beat_a_dense_network_that_was_trained_less(found, epochs, warned):
    made = example(accuracy=found, accuracy_epochs=epochs)
    for text in (report.render_html(made), " ".join(shown(report.summary(made)).split())):
        assert ("This does not say that sparse beats dense" in text) == warned


def test_weights_that_were_trained_elsewhere_are_not_called_untrained():
    found = {"given": 0.98, "dense": 0.98, "final": 0.99}
    said = accuracy.caution(example(accuracy=found, accuracy_epochs={"dense": 0, "final": 10}))
    assert "10 epochs of training on top of those of the network as given" in said
    assert "0 epochs" not in said.replace("10 epochs", "")


@pytest.mark.parametrize("cut", [{}, {"dead_outputs": 1, "isolated_units": 2, "silent": []}])
def test_the_warning_stands_below_the_accuracies_that_it_is_about(cut):
    made = example(
        cut_off=cut, accuracy={"dense": 0.98, "final": 0.99}, accuracy_epochs={"dense": 1, "final": 2}
    )
    text = shown(report.summary(made))
    assert text.index("99.00 ±") < text.index("This does not say") < text.index("of dense")


def test_many_stages_leave_the_names_to_the_wide_ones():
    rows = [
        {"stage": "tune" if n == 1 else f"tune-{n}", "epoch": e, "loss": 1.0, "accuracy": 0.9, "density": 0.5}
        for n in range(1, 41)
        for e in range(2)
    ]
    page = report.render_html(example(epochs=rows))
    assert "tune-2" not in page
    checker = Checker()
    checker.feed(page)
    assert checker.open == []


def test_what_a_recipe_leaves_out_is_not_shown_as_null():
    made = example(recipe=example()["recipe"] | {"tune": {"start": "trained", "replay_from": None}})
    assert "replay_from" not in report.render_html(made)


def test_the_network_as_given_is_not_listed_twice():
    made = example(accuracy={"given": 0.915, "dense": 0.915, "pruned": 0.6, "final": 0.9})
    assert [row.key for row in accuracy.accuracies(made)] == ["given", "pruned", "final"]


def test_a_failed_verification_says_what_failed_on_the_first_screen():
    message = "net.onnx: tensor fc1.weight differs from the packed file"
    check = {
        "check": "bits",
        "runtime": "ort_cpu",
        "tensor": "fc1.weight",
        "passed": False,
        "message": message,
    }
    made = example(verification={"passed": False, "checks": [check], "runtimes": []})
    assert figures.same(made) == figures.Answer(
        "Is it the same network?", "No: verification failed", "bad", (message,)
    )
    assert message in report.render_html(made)
    assert message in shown(report.summary(made))


def test_a_gain_in_time_names_its_runtime():
    row = ROW | {"runtime": "torch_sparse", "ran": True, "reason": "", "ratio": 2.0, "milliseconds": 0.04}
    made = example(verification={"passed": True, "checks": [], "runtimes": [row]})
    assert figures.faster(made).head == "2.00\u00d7 on torch_sparse"


@pytest.mark.parametrize("key", example())
def test_a_part_that_is_missing_or_empty_is_tolerated(key):
    without = {name: value for name, value in example().items() if name != key}
    for made in (without, example(**{key: None})):
        assert "<main>" in report.render_html(made)
        assert shown(report.summary(made))
        assert shown(report.sweep_table({"a": made}))


def test_a_report_without_verification_says_that_it_was_not_verified():
    page = report.render_html(example(verification={}))
    assert "Not verified" in page
    assert "Not measured" in page


def test_names_from_outside_are_escaped():
    made = example(recipe={"model": {"name": "<script>alert(1)</script>"}, "note": "<b>"})
    assert "<script" not in report.render_html(made)
    assert "<b>" not in report.render_html(made)


def test_the_terminal_shows_accuracies_bytes_verification_and_times():
    text = shown(report.summary(example()))
    for part in (
        "98.00 ± 0.74 %",
        "96.00",
        "97.00",
        "bitmask",
        "9.80 kB",
        "8.90 kB",
        "Yes, verified",
        "0.081 ms",
    ):
        assert part in text
    assert "no CUDA device here" in text


def test_a_sweep_is_one_table_with_a_row_per_run():
    runs = {"tune.start=trained": example(), "tune.start=rewind": example(accuracy={"final": 0.5})}
    lines = shown(report.sweep_table(runs)).splitlines()
    assert len(lines) == 3
    assert re.search(r"^tune\.start=trained\s+5 %\s+97\.00 ± 0\.90 %\s+98\.00", lines[1])
    assert lines[2].startswith("tune.start=rewind ")


def test_every_swept_key_has_a_line_of_its_own_in_the_table():
    label = "dense.milestones=[2,3],tune.start=trained,prune.density=0.1"
    lines = shown(report.sweep_table({label: example()})).splitlines()
    assert [line.split()[0] for line in lines[1:]] == [
        "dense.milestones=[2,3]",
        "tune.start=trained",
        "prune.density=0.1",
    ]


def test_both_files_are_written_and_the_json_is_strict(tmp_path):
    made = example()
    made["verification"]["runtimes"][0]["ratio"] = math.inf
    report.write(tmp_path, made)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]
    stored = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert stored["verification"]["runtimes"][0]["ratio"] is None
    assert stored["bytes"] == made["bytes"]


def test_the_curve_spans_the_stages_in_order_and_stays_inside():
    found = curve(example()["epochs"])
    assert [(stage.name, stage.epochs, stage.start, stage.width) for stage in found.stages] == [
        ("dense", 4, 0.0, 50.0),
        ("prune", 4, 50.0, 50.0),
    ]
    for stage in found.stages:
        for x, y in re.findall(r"([\d.-]+),([\d.-]+)", f"{stage.accuracy} {stage.density}"):
            assert stage.start <= float(x) <= stage.start + stage.width
            assert 0 <= float(y) <= 100
    assert curve([]) is None


def test_a_stage_of_one_epoch_is_a_dot():
    rows = example()["epochs"][:5]
    dot = curve(rows).stages[1].accuracy.split()
    assert len(dot) == 2
    assert dot[0] == dot[1]
    page = report.render_html(example(epochs=rows))
    assert page.count('class="curve dot"') == 1


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (812, "812 B"),
        (999.6, "1.00 kB"),
        (8900, "8.90 kB"),
        (99_940, "99.9 kB"),
        (102_290_312, "102 MB"),
        (1_066_440, "1.07 MB"),
    ],
)
def test_sizes_are_decimal_with_three_digits(count, text):
    assert figures.size(count) == text
