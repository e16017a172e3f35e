"""Python that loads a student and asks it something, for each task; it runs in the student's folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stillhouse.report.run_files import RunFiles

_HEADER = """\
{imports}

folder = "."  # this folder, or its name on the hub
"""

_PIPELINE = """\
{name} = pipeline("{task}", model=folder{options})
print({name}({example}))"""

_PARTS = """\
tokenizer = AutoTokenizer.from_pretrained(folder)
model = {auto_class}.from_pretrained(folder).eval()
"""

_ANSWER = """\
question, context = "Where is the mill?", "The old mill stands by the river."
inputs = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)
spans = inputs.pop("offset_mapping")[0].tolist()
is_context = torch.tensor([part == 1 for part in inputs.sequence_ids()])
with torch.no_grad():
    outputs = model(**inputs)
start = outputs.start_logits[0].masked_fill(~is_context, float("-inf")).argmax().item()
end = start + outputs.end_logits[0].masked_fill(~is_context, float("-inf"))[start:].argmax().item()
print(context[spans[start][0]:spans[end][1]])"""

_CHOICE = """\
question, choices = "What is cold?", ["ice", "fire"]
inputs = tokenizer([question] * len(choices), choices, return_tensors="pt", padding=True)
with torch.no_grad():
    logits = model(**{name: values.unsqueeze(0) for name, values in inputs.items()}).logits
print(choices[logits.argmax().item()])"""

_EMBED = """\
inputs = tokenizer(["A first sentence.", "A second one."], return_tensors="pt", padding=True, truncation=True)
with torch.no_grad():
    states = model(**inputs).last_hidden_state
mask = inputs["attention_mask"].unsqueeze(-1)
vectors = POOLED
print(vectors @ vectors.T)"""

_POOLED = {
    "mean": "(states * mask).sum(dim=1) / mask.sum(dim=1)",
    "cls": "states[:, 0]",
    "max": 'states.masked_fill(mask == 0, float("-inf")).amax(dim=1)',
}


def loading_code(run: RunFiles, config: Mapping[str, Any]) -> str:
    """A few lines for the run's student; ``config`` is its configuration as plain values."""
    own = ["import stillhouse.students  # makes the class of this model known to transformers"] \
        if str(config.get("model_type", "")).startswith("stillhouse_") else []
    if run.task in ("text-classification", "token-classification", "masked-lm"):
        return _header(["from transformers import pipeline", *own]) + _pipeline(run)
    auto_class, body = {
        "question-answering": ("AutoModelForQuestionAnswering", _ANSWER),
        "multiple-choice": ("AutoModelForMultipleChoice", _CHOICE),
        "sentence-embedding": ("AutoModel", _embedding(run)),
    }[run.task]
    imports = ["import torch", f"from transformers import {auto_class}, AutoTokenizer", *own]
    return _header(imports) + _PARTS.format(auto_class=auto_class) + body


def _header(imports: list[str]) -> str:
    return _HEADER.format(imports="\n".join(imports))


def _pipeline(run: RunFiles) -> str:
    if run.task == "masked-lm":
        name = "fill"
        return _PIPELINE.format(name=name, task="fill-mask", options="",
                                example='f"The {fill.tokenizer.mask_token} is cold."')
    if run.task == "token-classification":
        return _PIPELINE.format(name="tag", task=run.task, options=', aggregation_strategy="simple"',
                                example='"An example sentence."')
    options = {"multi": ', top_k=None, function_to_apply="sigmoid"', "regression": ', function_to_apply="none"'}
    pair = run.data.get("text_pair")
    example = '{"text": "A first sentence.", "text_pair": "A second one."}' if pair else '"An example sentence."'
    return _PIPELINE.format(name="classify", task=run.task, options=options.get(str(run.data.get("labels")), ""),
                            example=example)


def _embedding(run: RunFiles) -> str:
    pooled = _POOLED[str(run.data.get("pooling", "mean"))]
    if run.data.get("normalize", True):
        pooled = f"torch.nn.functional.normalize({pooled}, dim=-1)"
    return _EMBED.replace("POOLED", pooled)
