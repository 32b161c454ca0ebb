"""Messages of the option parser, as jsonargparse writes them, come out as one line."""

from __future__ import annotations

import pytest

from lightning_unlearn.usage import UsageError, did_you_mean, explain, naming

NESTED = """Parser key "model":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'objs.Objective'>, <class 'NoneType'>]
  Errors:
    - Parser key "lora":
        Does not validate against any of the Union subtypes
        Subtypes: [<class 'objs.Lora'>, <class 'NoneType'>]
        Errors:
          - {}
          - Expected a <class 'NoneType'>
        Given value type: <class 'jsonargparse._util.NestedArg'>
        Given value: NestedArg(key='r', val='abc')
    - Expected a <class 'NoneType'>
  Given value type: <class 'jsonargparse._util.NestedArg'>
  Given value: NestedArg(key='lora.r', val='abc')"""
LITERAL = """Parser key "trainer.precision":
  Errors:
    - Expected a <class 'int'>
    - Expected a typing.Literal['16-true', 'bf16-true']
    - Expected a <class 'NoneType'>
  Given value type: <class 'str'>
  Given value: bf17"""
OWN_CHECK = """Does not validate against any of the Union subtypes
Subtypes: [<class 'Objective'>, <class 'NoneType'>]
Errors:
  - retain must be one of none, nll, got 'klx'
  - Expected a <class 'NoneType'>
Given value type: <class 'jsonargparse._namespace.Namespace'>
Given value: Namespace(retain='klx')"""
ONE_OF_SEVERAL = """Does not validate against any of the Union subtypes
Subtypes: [<class 'Evaluator'>, list[Evaluator], <class 'NoneType'>]
Errors:
  - Not a valid subclass of Evaluator
    Subclass types expect one of:
    - a class path (str)
    - a dict with parameters accepted by the base class (implicit class_path)
  - kinds must be of email, got 'post'
  - Expected a <class 'NoneType'>
Given value type: <class 'list'>
Given value: [Namespace(kinds=['post'])]"""
OWN_FIRST = """Does not validate against any of the Union subtypes
Subtypes: [list[Callback], <class 'Callback'>, <class 'NoneType'>]
Errors:
  - top must be at most 1, got 2.0
  - Not a valid subclass of Callback
    Subclass types expect one of:
    - a class path (str)
    - a dict with parameters accepted by the base class (implicit class_path)
  - Expected a <class 'NoneType'>
Given value: [Namespace(top=2.0)]"""
OWN_INSIDE = """Does not validate against any of the Union subtypes
Subtypes: [<class 'Objective'>, <class 'NoneType'>]
Errors:
  - Does not validate against any of the Union subtypes
    Subtypes: [<class 'UpdateRule'>, <class 'NoneType'>]
    Errors:
      - rho must be above 0, got -1.0
      - Expected a <class 'NoneType'>
    Given value: Namespace(rho=-1.0)
  - Expected a <class 'NoneType'>
Given value: Namespace(update=Namespace(rho=-1.0))"""
CLASS = """Parser key "data":

  - Expected a path but Tofu either not accessible or invalid
  - Does not validate against any of the Union subtypes
  Errors:
    - Expected a dot import path string: Tofu
    - Expected a <class 'NoneType'>
  Given value type: <class 'str'>
  Given value: Tofu"""
PROBLEM = "Problem with given class_path 'mine.Own':\n        {}"
KNOWN = ["--trainer.max_epochs", "trainer.max_epochs", "model", "--model", "forget_weight", "TOFU", "alpha", "source"]


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (
            NESTED.format("Parser key \"r\":\n              Expected a <class 'int'>. Got value: abc"),
            "model.lora.r must be int, got 'abc'",
        ),
        (NESTED.format("Option 'alhpa' is not accepted"), "unknown option 'model.lora.alhpa'; did you mean 'alpha'?"),
        (LITERAL, "trainer.precision must be int or one of '16-true', 'bf16-true', got 'bf17'"),
        (
            'Parser key "model":\n  Expected an instantiatable class, but a.b.Objective is abstract',
            "model must be named before its options: --model CLASS, or a --config with it, comes first",
        ),
        (OWN_CHECK, "retain must be one of none, nll, got 'klx'"),
        (OWN_FIRST, "top must be at most 1, got 2.0"),
        (OWN_INSIDE, "rho must be above 0, got -1.0"),
        (ONE_OF_SEVERAL, "kinds must be of email, got 'post'"),
        (CLASS, "data: unknown class 'Tofu'; did you mean 'TOFU'?"),
        (
            CLASS.replace("Expected a dot import path string: Tofu", PROBLEM.format("No module named 'mine'")),
            "data: cannot import 'mine.Own' (No module named 'mine')",
        ),
        (
            CLASS.replace(
                "Expected a dot import path string: Tofu", PROBLEM.format("module 'mine' has no attribute 'A'")
            ),
            "data: cannot import 'mine.Own' (module 'mine' has no attribute 'A')",
        ),
        (
            "unrecognized arguments: --trainer.max_epochz 3",
            "unknown option '--trainer.max_epochz'; did you mean '--trainer.max_epochs'?",
        ),
        ("unrecognized arguments: stray", "unknown option 'stray'"),
        (
            "Subcommand 'fit' does not accept option 'trainer.max_epochz'",
            "unknown option 'trainer.max_epochz'; did you mean 'trainer.max_epochs'?",
        ),
        ("Subcommand 'fit' does not accept option 'modle.class_path'", "unknown option 'modle'; did you mean 'model'?"),
        ("the following arguments are required: fit.data, fit.model", "missing --data, --model"),
        (NESTED.format("the following arguments are required: r"), "missing --model.lora.r"),
        ("the following arguments are required: source, FOLDER, --output", "missing source, FOLDER, --output"),
        ("Subcommand 'fit' does not accept option 'model.init_args.alpha'", "unknown option 'model.alpha'"),
        ("Subcommand 'fit' does not accept option 'model.source'", "unknown option 'model.source'"),
        ("Parser key \"config\": File does not exist: '/x.yaml'", "config: File does not exist: '/x.yaml'"),
        ("argument --model:\n  expected one argument", "argument --model: expected one argument"),
    ],
)
def test_explain_says_it_in_one_line(message, line):
    assert explain(message, KNOWN) == line


def test_did_you_mean_ignores_case_and_what_is_far():
    assert did_you_mean("npo", ["NPO", "DPO"]) == "; did you mean 'NPO'?"
    assert did_you_mean("--nope", ["--model"]) == ""


def test_an_error_says_which_argument_it_is_about_and_stays_what_it_was():
    with pytest.raises(UsageError, match=r"^rows: no such file$"), naming("rows"):
        raise UsageError("no such file")
    with pytest.raises(ValueError, match=r"^no such file$"), naming(""):
        raise ValueError("no such file")
    with pytest.raises(OSError, match=r"^no such file$"), naming("rows"):
        raise OSError("no such file")
