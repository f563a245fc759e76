"""Labels on disk: what was taught outlives the process, is shared on a host, and rubbish is put aside."""

from __future__ import annotations

import asyncio
import threading
from argparse import Namespace
from pathlib import Path
from random import Random

import pytest
import yaml

from app.classify.classifier import Classifier
from app.classify.labels import SavedLabel, to_bytes
from app.domain.decisions import PromptView, Tier
from app.pipeline.router_label_files import LabelFiles, read_all
from app.pipeline.router_training import RouterTrainer, _sample
from app.router_command import label_folder, report, run
from app.routing.learning import MAX_LABELS
from app.settings import load
from tests.support.gateway import configuration

TOPICS = len(Classifier().complexity.topics.names)


@pytest.fixture
def faults() -> list[str]:
    return []


@pytest.fixture
def labels() -> list[SavedLabel]:
    """Requests about code gain from the powerful model, others do not."""
    teacher, random, found = RouterTrainer(Classifier()), Random(3), []
    for number in range(240):
        hard = number % 2 == 0
        subject = "Refactor the deadlock in this scheduler" if hard else "Name the capital of land"
        point = teacher.point_of(PromptView(f"{subject} {number} {random.random():.3f}"))
        found.append(SavedLabel(point, float(hard), 0.5 if number % 3 else 1.0))
    return found


def open_in(folder: Path, faults: list[str]) -> LabelFiles:
    return LabelFiles(folder, TOPICS, faults.append)


def test_what_was_saved_is_there_after_a_restart(tmp_path, faults, labels):
    files = open_in(tmp_path, faults)
    files.save(labels)
    files.close()
    again = open_in(tmp_path, faults)
    assert [label.gain for label in again.own()] == [label.gain for label in labels]
    assert not again.others()
    assert not faults
    again.close()


def test_each_worker_has_its_own_file_and_sees_the_others(tmp_path, faults, labels):
    one, two = open_in(tmp_path, faults), open_in(tmp_path, faults)
    one.save(labels[:100])
    two.save(labels[100:])
    assert (len(one.own()), len(one.others())) == (100, 140)
    assert (len(two.own()), len(two.others())) == (140, 100)
    assert len(read_all(tmp_path, TOPICS)[0]) == 240
    one.close()
    three = open_in(tmp_path, faults)
    assert len(three.own()) == 100  # the place, and the labels, of a worker that is gone
    two.close()
    three.close()


def test_a_file_with_any_few_bytes_wrong_is_read_or_put_aside(tmp_path, faults, labels):
    """A disk's or a killed process's fault is found by zipfile, zlib or numpy: none stops a start."""
    whole, random, damaged = to_bytes(labels[:60]), Random(7), 0
    for number in range(400):
        data = bytearray(whole)
        at = random.randrange(len(data))
        if number % 3:
            data[at] = random.randrange(256)
        else:
            data[at : at + 40] = random.randbytes(random.randrange(40))
        (tmp_path / "labels-0.npz").write_bytes(data)
        files = open_in(tmp_path, faults)
        damaged += not files.own()
        files.close()
    assert damaged == len(faults) > 0


@pytest.mark.parametrize("rubbish", [b"", b"PK\x03\x04 no archive", bytes(range(256)) * 40])
def test_rubbish_is_put_aside_and_said(tmp_path, faults, rubbish):
    (tmp_path / "labels-0.npz").write_bytes(rubbish)
    files = open_in(tmp_path, faults)
    assert files.own() == []
    assert len(faults) == 1
    assert "labels-0.unreadable" in faults[0]
    assert "pickle" not in faults[0]  # which numpy would advise, and which runs what is in it
    assert (tmp_path / "labels-0.unreadable").read_bytes() == rubbish
    files.close()


@pytest.mark.parametrize("bad", [{"gain": 7.0}, {"gain": float("nan")}, {"propensity": 0.0}])
def test_a_label_outside_its_range_is_rubbish_too(tmp_path, faults, labels, bad):
    wrong = SavedLabel(labels[0].features, bad.get("gain", 0.0), bad.get("propensity", 1.0))
    (tmp_path / "labels-0.npz").write_bytes(to_bytes([wrong]))
    files = open_in(tmp_path, faults)
    assert files.own() == []
    assert faults
    files.close()


def test_a_folder_that_cannot_be_made_keeps_nothing_and_says_so(tmp_path, faults, labels):
    (tmp_path / "file").write_text("in the way")
    files = open_in(tmp_path / "file", faults)
    files.save(labels)
    assert faults
    files.close()


def test_a_restarted_router_decides_by_what_it_was_taught(tmp_path, faults, labels):
    files = open_in(tmp_path, faults)
    files.save(labels)
    files.close()
    classifier = Classifier()
    teacher = RouterTrainer(classifier)
    teacher.restore(open_in(tmp_path, faults))
    assert classifier.complexity.head is not None
    hard = classifier.classify(PromptView("Refactor the deadlock in this scheduler 999"))
    easy = classifier.classify(PromptView("Name the capital of land 999"))
    assert hard.complexity > easy.complexity + 0.2
    assert teacher.files is not None
    teacher.files.close()


def test_verdicts_are_saved_when_the_gateway_ends(tmp_path, faults):
    async def go() -> None:
        teacher = RouterTrainer(Classifier())
        teacher.restore(open_in(tmp_path, faults))
        for number in range(30):
            teacher.record_routed("t", str(number), PromptView(f"Question {number}"), Tier.FAST)
            teacher.record_verdict("t", str(number), good=number % 2 == 0)
        await teacher.aclose()

    asyncio.run(go())
    assert len(read_all(tmp_path, TOPICS)[0]) == 30
    assert threading.active_count() >= 1


def test_the_report_prints_the_curve_with_its_interval(labels):
    lines = report(labels, "here")
    assert lines[0] == "here: 240 labels, the powerful answer was better in 120"
    sizes = [line.split()[0] for line in lines[2:]]
    assert sizes == ["prior", "50", "100", "180"]
    prior, best = (float(lines[at].split()[1]) for at in (2, -1))
    assert best >= prior > 0.6
    assert all(" to " in line for line in lines[2:])
    assert "too few" in report(labels[:40], "here")[1]


@pytest.mark.parametrize(("others", "own"), [(0, 10), (9_000, 10), (100_000, 8_000), (10, 8_000)])
def test_a_refit_reads_no_more_labels_however_many_workers_there_are(others: int, own: int):
    labels = tuple(range(others + own))
    kept = _sample(labels, others)
    assert len(kept) <= MAX_LABELS
    assert list(kept) == sorted(kept)
    assert kept[-1] == labels[-1]
    assert sum(one >= others for one in kept) >= min(own, MAX_LABELS // 2)
    assert len(kept) >= min(len(labels), MAX_LABELS // 2)


@pytest.mark.parametrize(
    ("scored", "answered", "good", "gain"),
    [
        (
            Tier.POWERFUL,
            Tier.FAST,
            False,
            1.0,
        ),  # by a deadline: the powerful answer would have been worth it
        (Tier.POWERFUL, Tier.FAST, True, 0.0),
        (Tier.FAST, Tier.POWERFUL, False, 0.0),  # by a race: the powerful answer was no good either
        (Tier.FAST, Tier.POWERFUL, True, None),
        (Tier.FAST, None, False, 1.0),
    ],
)
async def test_a_verdict_is_on_the_tier_that_answered(scored, answered, good, gain):
    teacher = RouterTrainer(Classifier())
    teacher.record_routed("acme", "req_1", PromptView("Why?"), scored)
    said = teacher.record_verdict("acme", "req_1", good=good, answered=answered)
    assert said == ("no label" if gain is None else "learned")
    assert [label.gain for label in teacher.learner.labels] == ([] if gain is None else [gain])


@pytest.mark.parametrize("damage", ["truncated", "unreadable"])
def test_the_report_names_each_damaged_file_and_reports_on_the_rest(
    tmp_path, capsys, labels, damage
):
    settings = configuration("http://127.0.0.1:9", state={"data_dir": str(tmp_path)})
    file = tmp_path / "gateway.yaml"
    file.write_text(yaml.safe_dump(settings))
    folder = label_folder(load(str(file), {}))
    folder.mkdir(parents=True)
    whole = to_bytes(labels)
    (folder / "labels-0.npz").write_bytes(whole)
    damaged = folder / "labels-1.npz"
    if damage == "truncated":
        damaged.write_bytes(whole[: len(whole) // 2])
    else:
        damaged.mkdir()
    assert run(Namespace(config=str(file))) == 1
    shown = capsys.readouterr()
    assert f"{damaged} cannot be read" in shown.err
    assert "labels-0.npz" not in shown.err
    assert f"{len(labels)} labels" in shown.out
    assert "APGR" in shown.out
