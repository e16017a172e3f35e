"""The papers behind what a recipe uses: methods by the names that recipes give them, and BibTeX.

A paper is data, and so is the table of what comes from which; `citations` reads a recipe's plain values alone, so that
a run made last month is cited without loading anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Paper:
    """One publication. ``arxiv`` is its number on arXiv, ``pages`` those of the volume."""

    key: str
    authors: tuple[str, ...]
    """As BibTeX wants them, ``Family, Given``."""
    title: str
    year: int
    venue: str = ""
    """The proceedings; empty where it is known from arXiv alone."""
    pages: str = ""
    arxiv: str = ""

    @property
    def bibtex(self) -> str:
        """The entry for a bibliography; the title is in braces of its own, so that its capitals stay."""
        fields = {
            "title": f"{{{self.title}}}", "author": " and ".join(self.authors), "booktitle": self.venue,
            "pages": self.pages, "year": str(self.year), "eprint": self.arxiv,
            "archivePrefix": "arXiv" if self.arxiv else "",
        }
        lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
        return "\n".join([f"@{'inproceedings' if self.venue else 'misc'}{{{self.key},", *lines, "}"])

    @property
    def url(self) -> str | None:
        """Where it can be read; None if that is not known."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else None


@dataclass(frozen=True)
class Citation:
    """A paper and what of it a recipe uses, for people: ``nst between layers``."""

    paper: Paper
    used_for: tuple[str, ...]


TEXTBREWER = Paper(
    "yang2020textbrewer",
    ("Yang, Ziqing", "Cui, Yiming", "Chen, Zhipeng", "Che, Wanxiang", "Liu, Ting", "Wang, Shijin", "Hu, Guoping"),
    "TextBrewer: An Open-Source Knowledge Distillation Toolkit for Natural Language Processing", 2020,
    "Proceedings of the 58th Annual Meeting of the Association for Computational Linguistics: System Demonstrations",
    "9--16", "2002.12620")
_HINTON = Paper(
    "hinton2015distilling", ("Hinton, Geoffrey", "Vinyals, Oriol", "Dean, Jeff"),
    "Distilling the Knowledge in a Neural Network", 2015, arxiv="1503.02531")
_BA = Paper(
    "ba2014deep", ("Ba, Jimmy", "Caruana, Rich"), "Do Deep Nets Really Need to be Deep?", 2014,
    "Advances in Neural Information Processing Systems", arxiv="1312.6184")
_JIAO = Paper(
    "jiao2020tinybert",
    ("Jiao, Xiaoqi", "Yin, Yichun", "Shang, Lifeng", "Jiang, Xin", "Chen, Xiao", "Li, Linlin", "Wang, Fang",
     "Liu, Qun"),
    "TinyBERT: Distilling BERT for Natural Language Understanding", 2020,
    "Findings of the Association for Computational Linguistics: EMNLP 2020", "4163--4174", "1909.10351")
_SANH = Paper(
    "sanh2019distilbert", ("Sanh, Victor", "Debut, Lysandre", "Chaumond, Julien", "Wolf, Thomas"),
    "DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter", 2019, arxiv="1910.01108")
_SUN = Paper(
    "sun2019patient", ("Sun, Siqi", "Cheng, Yu", "Gan, Zhe", "Liu, Jingjing"),
    "Patient Knowledge Distillation for BERT Model Compression", 2019,
    "Proceedings of the 2019 Conference on Empirical Methods in Natural Language Processing and the 9th International "
    "Joint Conference on Natural Language Processing", arxiv="1908.09355")
_YIM = Paper(
    "yim2017gift", ("Yim, Junho", "Joo, Donggyu", "Bae, Jihoon", "Kim, Junmo"),
    "A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer Learning", 2017,
    "Proceedings of the IEEE Conference on Computer Vision and Pattern Recognition")
_HUANG = Paper(
    "huang2017like", ("Huang, Zehao", "Wang, Naiyan"),
    "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", 2017, arxiv="1707.01219")
_LI = Paper(
    "li2020bertemd",
    ("Li, Jianquan", "Liu, Xiaokang", "Zhao, Honghong", "Xu, Ruifeng", "Yang, Min", "Jin, Yaohong"),
    "BERT-EMD: Many-to-Many Layer Mapping for BERT Compression with Earth Mover's Distance", 2020,
    "Proceedings of the 2020 Conference on Empirical Methods in Natural Language Processing", "3009--3018",
    "2010.06133")
_WEN = Paper(
    "wen2019preparing", ("Wen, Tiancheng", "Lai, Shenqi", "Qian, Xueming"),
    "Preparing Lessons: Improve Knowledge Distillation with Better Supervision", 2019, arxiv="1911.07471")
_ZHANG = Paper(
    "zhang2024jasper", ("Zhang, Dun", "Li, Jiacheng", "Zeng, Ziyang", "Wang, Fulong"),
    "Jasper and Stella: distillation of SOTA embedding models", 2024, arxiv="2412.19048")
_REIMERS = Paper(
    "reimers2020multilingual", ("Reimers, Nils", "Gurevych, Iryna"),
    "Making Monolingual Sentence Embeddings Multilingual using Knowledge Distillation", 2020,
    "Proceedings of the 2020 Conference on Empirical Methods in Natural Language Processing", arxiv="2004.09813")
_PARK = Paper(
    "park2019relational", ("Park, Wonpyo", "Kim, Dongju", "Lu, Yan", "Cho, Minsu"),
    "Relational Knowledge Distillation", 2019,
    "Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition", arxiv="1904.05068")
_TUNG = Paper(
    "tung2019similarity", ("Tung, Frederick", "Mori, Greg"), "Similarity-Preserving Knowledge Distillation", 2019,
    "Proceedings of the IEEE/CVF International Conference on Computer Vision", arxiv="1907.09682")
_TANG = Paper(
    "tang2019distilling",
    ("Tang, Raphael", "Lu, Yao", "Liu, Linqing", "Mou, Lili", "Vechtomova, Olga", "Lin, Jimmy"),
    "Distilling Task-Specific Knowledge from BERT into Simple Neural Networks", 2019, arxiv="1903.12136")
_YOU = Paper(
    "you2017learning", ("You, Shan", "Xu, Chang", "Xu, Chao", "Tao, Dacheng"),
    "Learning from Multiple Teacher Networks", 2017,
    "Proceedings of the 23rd ACM SIGKDD International Conference on Knowledge Discovery and Data Mining",
    "1285--1294")

LOGIT_LOSSES: Mapping[str, tuple[Paper, ...]] = {"ce": (_HINTON,), "forward_kl": (_HINTON,), "mse": (_BA,)}
"""``distillation.loss`` by name."""
LAYER_LOSSES: Mapping[str, tuple[Paper, ...]] = {
    "hidden_mse": (_JIAO,), "cos": (_SANH,), "pkd": (_SUN,), "fsp": (_YIM,), "gram": (_YIM,), "nst": (_HUANG,),
    "mmd": (_HUANG,), "attention_mse": (_JIAO,), "attention_mse_sum": (_JIAO,), "attention_ce": (TEXTBREWER,),
    "attention_ce_mean": (TEXTBREWER,), "emd": (_LI,), "emd_cost_attention": (_LI,),
}
"""``losses`` of a match by name."""
EMBEDDING_LOSSES: Mapping[str, tuple[Paper, ...]] = {
    "cosine": (_ZHANG,), "mse": (_REIMERS,), "relation": (_PARK, _TUNG)}
"""``distillation.embedding`` by name."""
STRATEGIES: Mapping[str, tuple[Paper, ...]] = {"flsw": (_WEN,), "cwsm": (_WEN,)}
"""``distillation.temperature_strategy`` by name."""
AUGMENTATIONS: Mapping[str, tuple[Paper, ...]] = {"masking": (_TANG,), "n_gram_sampling": (_TANG,)}
"""``augmentation.functions`` by name."""
SHAPES: Mapping[str, tuple[Paper, ...]] = {
    name: (TEXTBREWER,) for name in ("T6", "T3", "T3-small", "T4-tiny", "T12-nano")}
"""``student.shape`` by name."""
NETWORKS: Mapping[str, tuple[Paper, ...]] = {"BiLSTM": (_TANG,)}
"""``student.network`` by name."""

_USUAL_EMBEDDING = {"cosine": 1.0, "relation": 1.0}


def citations(recipe: Mapping[str, Any]) -> list[Citation]:
    """What to cite for a recipe, as plain values with defaults filled in; TextBrewer's paper comes first, always.

    Names that are not known, such as losses of the user's, have no citation. Of stages, those of every stage.
    """
    used: dict[str, Citation] = {}
    for stage in recipe.get("stages") or [recipe]:
        for papers, what in [((TEXTBREWER,), "the system"), *_used(stage)]:
            for paper in papers:
                before = used[paper.key].used_for if paper.key in used else ()
                used[paper.key] = Citation(paper, tuple(dict.fromkeys([*before, what])))
    return list(used.values())


Used = tuple[tuple[Paper, ...], str]


def _used(recipe: Mapping[str, Any]) -> Iterator[Used]:
    """The papers of each method of a recipe, in the order in which people would tell it."""
    distillation = recipe.get("distillation") or {}
    yield from _models(recipe)
    if distillation.get("loss_weight", 1.0):
        yield from _answers(recipe, distillation)
    for match in distillation.get("matches") or ():
        weight = match.get("weight", 1.0)
        for loss in match.get("losses") or ():
            if weight.get(loss, 1.0) if isinstance(weight, Mapping) else weight:
                yield LAYER_LOSSES.get(loss, ()), f"{loss} between layers"
    for function in (recipe.get("augmentation") or {}).get("functions") or ():
        name = next(iter(function)) if isinstance(function, Mapping) else function
        yield AUGMENTATIONS.get(name, ()), f"augmentation by {name}"


def _models(recipe: Mapping[str, Any]) -> Iterator[Used]:
    student, teacher = recipe.get("student") or {}, recipe.get("teacher") or {}
    yield SHAPES.get(student.get("shape", ""), ()), f"the shape {student.get('shape')}"
    yield NETWORKS.get(student.get("network", ""), ()), f"a {student.get('network')} as student"
    if len(teacher.get("models") or ()) > 1 or teacher.get("seeds"):
        yield (_YOU,), "several teachers"


def _answers(recipe: Mapping[str, Any], distillation: Mapping[str, Any]) -> Iterator[Used]:
    """What comes from papers about the losses between the two models' answers."""
    if recipe.get("task") == "sentence-embedding":
        for name, weight in (distillation.get("embedding") or _USUAL_EMBEDDING).items():
            yield (EMBEDDING_LOSSES.get(name, ()) if weight else ()), f"{name} between embeddings"
        return
    loss = distillation.get("loss") or _usual_loss(recipe)
    yield LOGIT_LOSSES.get(loss, ()), f"{loss} between logits"
    strategy = distillation.get("temperature_strategy")
    if strategy:
        name = strategy if isinstance(strategy, str) else strategy[0]
        yield STRATEGIES.get(name, ()), f"the temperature strategy {name}"
    if distillation.get("probability_shift"):
        yield (_WEN,), "probability shift"


def _usual_loss(recipe: Mapping[str, Any]) -> str:
    """The loss between logits of a recipe that names none, which depends on the labels."""
    labels = (recipe.get("data") or {}).get("labels", "single")
    return {"multi": "bernoulli_kl", "regression": "mse"}.get(labels, "forward_kl")
