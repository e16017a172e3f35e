"""Promises of students built from a teacher, over the encoder families."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from stillhouse.errors import ConfigError, PlanError
from stillhouse.students import StudentSpec, build_student, plan_student

DEPTH = 4
SIZES: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": DEPTH, "num_attention_heads": 4, "intermediate_size": 64}
DISTILBERT_SIZES: dict[str, Any] = {"dim": 32, "n_layers": DEPTH, "n_heads": 4, "hidden_dim": 64}
LABELS = {0: "red", 1: "green", 2: "blue"}
LAYERS = {"bert": "bert.encoder.layer", "roberta": "roberta.encoder.layer", "electra": "electra.encoder.layer",
          "distilbert": "distilbert.transformer.layer"}
CLASSES = {"bert": "Bert", "roberta": "Roberta", "electra": "Electra", "distilbert": "DistilBert"}


def make_teacher(family: str, **values: Any) -> PreTrainedModel:
    """A tiny classifier of the family, every weight random (also those that are usually 0 or 1)."""
    torch.manual_seed(5)
    extra = DISTILBERT_SIZES if family == "distilbert" else SIZES
    if family == "electra":
        extra = {**extra, "embedding_size": 16}
    config = getattr(transformers, f"{CLASSES[family]}Config")(
        vocab_size=50, max_position_embeddings=40, pad_token_id=1, bos_token_id=0, eos_token_id=2, id2label=LABELS,
        label2id={name: i for i, name in LABELS.items()}, problem_type="single_label_classification",
        **{**extra, **values})
    model: PreTrainedModel = getattr(transformers, f"{CLASSES[family]}ForSequenceClassification")(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


def logits(model: nn.Module) -> Tensor:
    """The model's answer to a fixed padded batch."""
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 1, 1]])
    with torch.no_grad():
        answer: Tensor = model.eval()(input_ids=ids, attention_mask=(ids != 1).long()).logits
    return answer


@pytest.fixture(params=sorted(CLASSES))
def family(request: pytest.FixtureRequest) -> str:
    """Each encoder family in turn."""
    return str(request.param)


COPIES = {
    "layers": (StudentSpec(layers=(1, -1)), (1, 3)),
    "half": (StudentSpec(keep="half"), (0, 2)),
    "count": (StudentSpec(keep=3), (0, 1, 2)),
    "T3": (StudentSpec(shape="T3"), (0, 1, 2)),
}


@pytest.mark.parametrize("way", COPIES)
def test_kept_layers_embeddings_and_head_equal_the_teachers(family: str, way: str) -> None:
    spec, kept = COPIES[way]
    teacher = make_teacher(family)
    student = build_student(teacher, spec, seed=0)
    assert type(student) is type(teacher)
    theirs, ours, seen = teacher.state_dict(), student.state_dict(), set()
    for name, value in ours.items():
        match = re.fullmatch(rf"({re.escape(LAYERS[family])})\.(\d+)\.(.*)", name)
        source = f"{match[1]}.{kept[int(match[2])]}.{match[3]}" if match else name
        assert torch.equal(value, theirs[source]), name
        seen.add(source)
    dropped = {name for name in theirs if name not in seen}
    gone = tuple(f"{LAYERS[family]}.{i}." for i in range(DEPTH) if i not in kept)
    assert dropped == {name for name in theirs if name.startswith(gone)}


def test_removing_the_layers_by_hand_gives_the_same_logits(family: str) -> None:
    teacher = make_teacher(family)
    student = build_student(teacher, StudentSpec(layers=(0, 3)))
    cut = copy.deepcopy(teacher)
    path, _, last = LAYERS[family].rpartition(".")
    stack = cut.get_submodule(path)
    setattr(stack, last, nn.ModuleList([getattr(stack, last)[i] for i in (0, 3)]))
    if family == "distilbert":
        stack.n_layers = 2
    cut.config.num_hidden_layers = 2
    assert torch.equal(logits(student), logits(cut))


def test_keeping_every_layer_gives_the_teacher_again(family: str) -> None:
    teacher = make_teacher(family)
    assert torch.equal(logits(build_student(teacher, StudentSpec(keep=DEPTH))), logits(teacher))


@pytest.mark.parametrize("shape", ["T3", "T3-small", "T4-tiny", "T12-nano"])
def test_shapes_answer_saved_and_loaded_alike(family: str, shape: str, tmp_path: Path) -> None:
    student = build_student(make_teacher(family), StudentSpec(shape=shape), seed=0)
    answer = logits(student)
    assert answer.shape == (2, len(LABELS))
    student.save_pretrained(tmp_path)
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(loaded) is type(student)
    assert torch.equal(logits(loaded), answer)
    assert loaded.config.id2label == LABELS
    assert loaded.config.label2id == {name: i for i, name in LABELS.items()}
    assert loaded.config.problem_type == "single_label_classification"


SCRATCH = StudentSpec(config={"num_hidden_layers": 2, "hidden_size": 64})


@pytest.mark.parametrize("spec", [SCRATCH, StudentSpec(keep="half"), StudentSpec(shape="T4-tiny")])
@pytest.mark.parametrize("seed", [None, 7])
def test_building_moves_neither_the_generator_nor_the_teacher(family: str, spec: StudentSpec, seed: int | None) -> None:
    teacher = make_teacher(family).requires_grad_(False)
    weights, config = copy.deepcopy(teacher.state_dict()), teacher.config.to_dict()
    state = torch.get_rng_state()
    student = build_student(teacher, spec, seed)
    logits(student)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    assert torch.equal(torch.get_rng_state(), state)
    assert teacher.config.to_dict() == config
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert all(torch.equal(value, weights[name]) for name, value in teacher.state_dict().items())


def weights_of(build: Callable[[], nn.Module]) -> Tensor:
    """All parameters of what is built, as one vector."""
    return nn.utils.parameters_to_vector(build().parameters()).detach()


def test_the_seed_alone_decides_the_new_weights() -> None:
    teacher = make_teacher("bert")
    first = weights_of(lambda: build_student(teacher, SCRATCH, seed=1))
    torch.manual_seed(99)
    assert torch.equal(weights_of(lambda: build_student(teacher, SCRATCH, seed=1)), first)
    assert not torch.equal(weights_of(lambda: build_student(teacher, SCRATCH, seed=2)), first)


def test_without_a_seed_the_global_generator_decides() -> None:
    teacher = make_teacher("bert")
    torch.manual_seed(1)
    assert torch.equal(weights_of(lambda: build_student(teacher, SCRATCH)),
                       weights_of(lambda: build_student(teacher, SCRATCH, seed=1)))


def test_the_attention_kernel_is_kept() -> None:
    for kernel in ("eager", "sdpa"):
        teacher = make_teacher("bert", attn_implementation=kernel)
        assert build_student(teacher, StudentSpec(keep="half")).config._attn_implementation == kernel
        assert build_student(teacher, SCRATCH).config._attn_implementation == kernel


def test_a_half_precision_teacher_gives_a_student_of_the_default_dtype() -> None:
    teacher = make_teacher("bert").to(torch.bfloat16)
    student = build_student(teacher, StudentSpec(layers=(2,)))
    name = "bert.encoder.layer.{}.output.dense.weight"
    assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}
    assert torch.equal(student.get_parameter(name.format(0)), teacher.get_parameter(name.format(2)).float())


def test_per_layer_settings_go_with_their_layers() -> None:
    kinds = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    config = transformers.ModernBertConfig(
        vocab_size=50, pad_token_id=1, bos_token_id=0, eos_token_id=2, cls_token_id=0, sep_token_id=2,
        layer_types=kinds, **SIZES)
    teacher = transformers.ModernBertForSequenceClassification(config)
    student = build_student(teacher, StudentSpec(layers=(0, 2, 3)))
    assert student.config.layer_types == [kinds[0], kinds[2], kinds[3]]
    assert build_student(teacher, StudentSpec(shape="T12-nano")).config.layer_types == kinds * 3
    with pytest.raises(PlanError, match=r"cannot be moved to the places 0 to 1: choose other layers.*attn_norm"):
        build_student(teacher, StudentSpec(layers=(1, 2)))  # the first layer has no norm of its own, unlike the others


@pytest.mark.parametrize(("spec", "expected"), [
    (StudentSpec(layers=(1, 3)), "2 layers x 32, 4 heads, from the teacher's layers 1, 3 (counted from 0)"),
    (StudentSpec(layers=(2,)), "1 layer x 32, 4 heads, from the teacher's layer 2 (counted from 0)"),
    (StudentSpec(shape="T4-tiny"), "4 layers x 32, 1 head, from scratch"),
])
def test_the_plan_says_what_will_be_built(spec: StudentSpec, expected: str) -> None:
    plan = plan_student(make_teacher("bert").config, spec)
    assert plan.description == expected
    assert plan.from_scratch == ("scratch" in expected)
    assert plan.starts_from == ("scratch" if plan.from_scratch else "the teacher's layers")


@pytest.mark.parametrize("ways", [{}, {"shape": "T3", "keep": "half"}, {"layers": (0,), "config": {}},
                                  {"network": "CNN", "keep": 1}])
def test_a_student_is_described_in_exactly_one_way(ways: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="exactly one of shape, layers, keep, config, network"):
        StudentSpec(**ways)


@pytest.mark.parametrize("keep", [0, DEPTH + 1, "third", True])
def test_an_impossible_number_of_layers_to_keep_is_refused(keep: Any) -> None:
    with pytest.raises(PlanError, match=f"keep is {keep!r}: write 'half', or a number of layers from 1 to .* 4"):
        plan_student(make_teacher("bert").config, StudentSpec(keep=keep))


class OwnClassifier(transformers.BertPreTrainedModel):
    """BERT's configuration over layers of somebody's own."""

    def __init__(self, config: transformers.BertConfig) -> None:
        super().__init__(config)
        self.left, self.right = (nn.ModuleList(nn.Linear(2, 2) for _ in range(DEPTH)) for _ in range(2))
        self.post_init()


def unknown_structures() -> dict[str, nn.Module]:
    """Teachers that no student can be derived from."""
    sizes: dict[str, Any] = {"vocab_size": 50, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    albert = transformers.AlbertConfig(**sizes, **SIZES, embedding_size=16)  # one layer, used four times
    bart = transformers.BartConfig(**sizes, d_model=32, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=64,
                                   decoder_ffn_dim=64, encoder_attention_heads=4, decoder_attention_heads=4)
    t5 = transformers.T5Config(**sizes, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    funnel = transformers.FunnelConfig(**sizes, block_sizes=[1, 1], d_model=32, n_head=4, d_head=8, d_inner=64)
    return {
        "plain": nn.Linear(2, 2),
        "own": OwnClassifier(transformers.BertConfig(**sizes, **SIZES)),
        "albert": transformers.AlbertForSequenceClassification(albert),
        "bart": transformers.BartModel(bart),
        "funnel": transformers.FunnelForSequenceClassification(funnel),
        "gpt2": transformers.GPT2ForSequenceClassification(
            transformers.GPT2Config(**sizes, n_embd=32, n_layer=2, n_head=4)),
        "recurrent": build_student(make_teacher("bert"), StudentSpec(network="BiGRU", config={"hidden_size": 8})),
        "t5 encoder": transformers.T5EncoderModel(t5),
    }


def test_a_teacher_of_unknown_structure_asks_for_a_model() -> None:
    for name, teacher in unknown_structures().items():
        for spec in (StudentSpec(keep=1), StudentSpec(shape="T12-nano")):
            with pytest.raises(PlanError) as refusal:
                build_student(teacher, spec)
            assert "give a model of your own as {model: PATH}" in str(refusal.value), name


def test_an_unknown_family_is_told_the_known_ones_and_the_networks() -> None:
    with pytest.raises(PlanError, match=r"GPT2Config.*'gpt2'.*bert,.*xlm-roberta\).*BiGRU, BiLSTM, CNN"):
        plan_student(transformers.GPT2Config(), StudentSpec(keep="half"))


def test_the_newer_head_of_a_deberta_that_fills_masks_is_kept() -> None:
    config = transformers.DebertaV2Config(vocab_size=50, type_vocab_size=0, legacy=False, **SIZES)
    teacher = transformers.DebertaV2ForMaskedLM(config).eval()
    for parameter in teacher.parameters():
        nn.init.normal_(parameter, std=0.3)
    assert torch.equal(logits(build_student(teacher, StudentSpec(keep=DEPTH))), logits(teacher))


def test_a_layer_that_attends_nearby_still_does_in_another_place() -> None:
    config = transformers.ModernBertConfig(
        vocab_size=50, pad_token_id=1, bos_token_id=0, eos_token_id=2, cls_token_id=0, sep_token_id=2,
        global_attn_every_n_layers=2, local_attention=4, **SIZES)
    student = build_student(transformers.ModernBertForSequenceClassification(config), StudentSpec(layers=(0, 2, 3)))
    again = type(student.config).from_dict(student.config.to_dict())
    kinds = ["full_attention", "full_attention", "sliding_attention"]
    assert student.config.layer_types == again.layer_types == kinds
    assert [layer.attention_type for layer in student.model.layers] == kinds
    assert [layer.attn.sliding_window is None for layer in student.model.layers] == [True, True, False]


def test_a_config_that_the_class_cannot_be_built_from_is_a_plan_error() -> None:
    with pytest.raises(PlanError, match=r"cannot be built as 4 layers x 32.*no_such_function"):
        build_student(make_teacher("bert"), StudentSpec(config={"hidden_act": "no_such_function"}))
