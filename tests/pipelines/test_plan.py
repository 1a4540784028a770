"""Plans: the parts against what they count, the whole against peaks that were measured on real runs."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rung.commands import COMMANDS
from rung.commands.pipeline import PipelinePlan, places_of, settings_of
from rung.commands.pipeline_plan import planned, too_little_disk
from rung.config import parse
from rung.models.config import DecoderConfig
from rung.models.decoder import Decoder
from rung.models.lora import add_adapter
from rung.pipelines.plan import Rates, Rows, Size, decoding_seconds, plan, trained_state
from rung.pipelines.recipe_file import read_recipe
from rung.rollouts.cache import Cache
from rung.settings import Lora

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "plan-memory-cpu-2core.json"
RECIPES = Path(__file__).parents[2] / "recipes"
SMOLLM2 = dict(
    model_type="llama", vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
    num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True,
)  # fmt: skip
TINY = SMOLLM2 | dict(vocab_size=100, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
                      num_key_value_heads=2)  # fmt: skip
DATA = {"sft": Rows(200, 48_223), "dpo": Rows(100, 35_000)}  # what benchmarks/plan_memory.py writes


def config(values: dict) -> DecoderConfig:
    return DecoderConfig.from_hf(values)


def settings(command: str, *words: str):
    return parse(settings_of(command), [*words, "--precision", "bf16", "--device", "cpu"], "rung")


def measured() -> dict:
    return json.loads(RESULTS.read_text())["cases"]


@pytest.mark.parametrize("name", list(measured()))
def test_the_peak_is_within_15_percent_of_what_was_measured(name):
    case = measured()[name]
    command, *words = case["argv"]
    fixed = [] if "--precision" in words else ["--precision", "bf16"]
    given = parse(settings_of(command), [*words, *fixed, "--device", "cpu"], "rung")
    foretold = plan(command, given, config(SMOLLM2), rows=DATA.get(command)).memory
    assert foretold == pytest.approx(case["peak_gb"], rel=0.15)


def test_the_measured_cases_hold_one_of_each_command():
    assert {case["argv"][0] for case in measured().values()} >= {"sft", "dpo", "grpo"}


MIXTURE = TINY | dict(
    model_type="qwen3_moe", head_dim=8, moe_intermediate_size=24, num_experts=4, num_experts_per_tok=2,
    mlp_only_layers=[1],
)  # fmt: skip


@pytest.mark.parametrize("values", [SMOLLM2, TINY, TINY | {"tie_word_embeddings": False}])
def test_weights_are_counted_exactly(values):
    with torch.device("meta"):
        model = Decoder(config(values))
    assert Size(config(values), 2, True).total == sum(p.numel() for p in model.parameters())


def test_a_mixtures_experts_are_counted_exactly():
    with torch.device("meta"):
        model = Decoder(config(MIXTURE))
    weights = {name: p.numel() for name, p in model.named_parameters() if not name.endswith("norm.weight")}
    size = Size(config(MIXTURE), 2, True)
    assert size.matrices + size.embedding == sum(weights.values())


def test_an_adapter_is_counted_exactly():
    model = Decoder(config(TINY))
    add_adapter(model, Lora(rank=4), seed=0)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert Size(config(TINY), 2, True).adapter(4) == trained


def saved_bytes(layers: int, tokens: int = 64) -> int:
    """What autograd keeps for the backward pass of a forward without a head, weights not counted."""
    from rung.models.decoder import Documents

    model = Decoder(config(TINY | {"num_hidden_layers": layers})).to(torch.bfloat16).train()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(torch.arange(tokens) % 100, torch.arange(tokens), Documents((tokens,)))
    return sum(kept.values())


def test_activations_of_a_layer_are_what_autograd_keeps():
    sizes = [Size(config(TINY | {"num_hidden_layers": n}), 2, True) for n in (2, 3)]
    formula = sizes[1].activations(64, False) - sizes[0].activations(64, False)
    # The norms' gains and each token's float32 scale are beside it: 2 (4 N + 4 D) bytes.
    assert saved_bytes(3) - saved_bytes(2) == pytest.approx(formula + 2 * 4 * (64 + 32), abs=300)


def test_keys_and_values_are_what_the_cache_holds():
    model = Decoder(config(TINY)).to(torch.bfloat16)
    cache = Cache(model, 5)
    cache.fit(100)
    held = sum(x.nbytes for x in (*cache.keys, *cache.values))
    assert Size(config(TINY), 2, True).cache(5, 100) == held


def test_only_a_processor_in_half_precision_lays_weights_out_anew():
    sizes = [Size(config(TINY), bytes, cpu) for bytes, cpu in ((2, True), (2, False), (4, True))]
    assert [size.packed() for size in sizes] == [2 * (sizes[0].matrices + 100 * 32), 0, 0]


@pytest.mark.parametrize(("command", "peak"), [("sft", 4.3), ("reward", 4.9), ("dpo", 5.0)])
def test_a_run_of_fifty_steps_is_within_15_percent_too(command, peak):
    """What recipes/rlhf.yaml took on HH-RLHF's pairs: by then all the code of products that is kept is there."""
    given = settings(command, "--data", "x", "--max-length", "512")
    assert plan(command, given, config(SMOLLM2)).memory == pytest.approx(peak, rel=0.15)


def test_only_a_processor_in_half_precision_keeps_the_code_of_products():
    given = settings("sft", "--data", "x")
    sizes = [Size(config(TINY), bytes, cpu) for bytes, cpu in ((2, True), (2, False), (4, True))]
    assert [trained_state(size, given)["code"] for size in sizes] == [0.33e9, 0, 0]


def test_the_state_by_hand():
    size = Size(config(TINY), 2, True)
    total = size.total
    state = trained_state(size, settings("sft", "--data", "x"))
    assert (state["weights"], state["masters"], state["moments"], state["gradients"]) == (
        2 * total, 4 * total, 8 * total, 4 * total,
    )  # fmt: skip
    assert state["average"] == 0
    assert trained_state(size, settings("sft", "--optimizer.average", "0.9"))["average"] == 4 * total
    muon = trained_state(size, settings("sft", "--optimizer.name", "muon"))["moments"]
    assert muon == 8 * total - 4 * size.matrices
    assert trained_state(size, settings("sft", "--optimizer.name", "adamw-8bit"))["moments"] == 2 * total
    whole = Size(config(TINY), 4, True)
    assert trained_state(whole, settings("sft"))["masters"] == 0  # float32 weights are their own
    few = trained_state(size, settings("sft", "--lora.rank", "2"))
    assert (few["masters"], few["moments"]) == (0, 8 * size.adapter(2))


def test_recomputing_keeps_a_layers_input_and_one_layer_whole():
    size, c = Size(config(TINY), 2, True), config(TINY)
    one = 4 * 32 + 2 * 32 + 2 * 16 + 3 * 48
    passing = 2 * 48 + 2 * 32
    assert size.activations(10, False) == 2 * 10 * (c.layers * one + passing)
    assert size.activations(10, True) == 2 * 10 * (c.layers * 32 + one + passing)


def test_a_critic_of_its_own_costs_a_policy_more_and_a_shared_one_nothing():
    words = ("--env", "arithmetic")
    shared = plan("ppo", settings("ppo", *words, "--critic.trunk", "shared"), config(TINY)).phases["training"]
    own = plan("ppo", settings("ppo", *words), config(TINY)).phases["training"]
    assert "critic" not in shared and own["critic"] * 1e9 == pytest.approx(
        18 * Size(config(TINY), 2, True).total
    )
    assert own["activations"] == 2 * shared["activations"]
    assert shared["reference"] * 1e9 == 2 * Size(config(TINY), 2, True).total


def test_a_cost_has_a_critic_of_its_own_too_and_every_reward_model_its_weights():
    words = ("--env", "arithmetic", "--reward", "rm:a,b")
    plain = plan("ppo", settings("ppo", *words), config(TINY)).phases["training"]
    words = (*words, "--cost.reward", "rm:c")
    costly = plan("ppo", settings("ppo", *words), config(TINY)).phases["training"]
    assert costly["critic"] == pytest.approx(2 * plain["critic"])
    assert costly["activations"] == pytest.approx(1.5 * plain["activations"])
    weights = 2 * Size(config(TINY), 2, True).total
    assert plain["reward model"] * 1e9 == 2 * weights and costly["reward model"] * 1e9 == 3 * weights
    shared = plan("ppo", settings("ppo", *words, "--critic.trunk", "shared"), config(TINY)).phases["training"]
    assert "critic" not in shared


def test_checkpoints_on_disk_by_hand():
    size = Size(config(TINY), 2, True)
    one = (2 + 4 + 8) * size.total / 1e9  # weights, masters, two moments

    def left(command: str, *words: str) -> float:
        return plan(command, settings(command, *words), config(TINY)).disk

    sft = ("--data", "x", "--steps", "25")
    assert left("sft", *sft) == pytest.approx(one)
    assert left("sft", *sft, "--save-every", "10") == pytest.approx(2 * one)  # keep is 2
    assert left("sft", *sft, "--save-every", "10", "--keep", "0") == pytest.approx(3 * one)
    assert left("sft", *sft, "--save-every", "20", "--keep", "5") == pytest.approx(2 * one)
    assert left("sft", "--data", "x", "--save-every", "10", "--keep", "3") == pytest.approx(3 * one)
    assert left("sft", *sft, "--optimizer.average", "0.9") == pytest.approx(18 / 14 * one)
    assert left("sft", *sft, "--lora.rank", "2") == pytest.approx(12 * size.adapter(2) / 1e9)
    rounds = ("--env", "arithmetic", "--rounds", "9", "--save-every", "4", "--keep", "0")
    assert left("grpo", *rounds) == pytest.approx(3 * one)
    assert left("ppo", *rounds) == pytest.approx(6 * one)  # the critic's trunk is as large
    assert left("eval", "--models", "m", "--env", "arithmetic") == 0


def test_a_disk_too_small_for_the_checkpoints_is_said_before_anything_runs(
    tmp_path, tiny_folder, monkeypatch
):
    recipe, data = tmp_path / "recipe.yaml", tmp_path / "rows.jsonl"
    data.write_text('{"text": "a"}\n')
    stage = f"    command: sft\n    with: {{model: {tiny_folder}, data: {data}, steps: 25, save_every: 10}}\n"
    recipe.write_text(f"stages:\n  one:\n{stage}  two:\n{stage}")
    _, places = places_of(PipelinePlan(recipe, out=str(tmp_path / "not" / "there")))
    one = planned(places[0], places, None).disk / 2
    free = [1e9 * 6.01 * one]  # two of each stay, and as much again of one stage while its newest is written
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free[0]))
    assert too_little_disk(places) == ""
    free[0] = 1e9 * 5.99 * one
    assert "warning: checkpoints of what is left take up to" in too_little_disk(places)


def test_online_dpo_holds_the_start_where_its_loss_asks_for_it():
    words, rates = ("--env", "arithmetic", "--prompts", "4"), Rates(1e9)
    dpo = plan("online-dpo", settings("online-dpo", *words), config(TINY), rates=rates)
    simpo = plan("online-dpo", settings("online-dpo", *words, "--method", "simpo"), config(TINY), rates=rates)
    assert dpo.phases["training"]["reference"] * 1e9 == 2 * Size(config(TINY), 2, True).total
    assert "reference" not in simpo.phases["training"] and dpo.seconds == simpo.seconds
    pairs = plan("grpo", settings("grpo", *words, "--group", "2"), config(TINY), rates=rates)
    assert simpo.phases == pairs.phases and simpo.seconds == pairs.seconds  # two answers to each task


def test_time_is_work_over_speed():
    rates = Rates(matrix=1e9, training=0.5, memory=1e9, sampling=0.1)
    rows, c = Rows(10, 1000), config(TINY)
    short = plan(
        "sft",
        settings("sft", "--data", "x", "--steps", "2", "--step-tokens", "100"),
        c,
        rates=rates,
        rows=rows,
    )
    long = plan(
        "sft",
        settings("sft", "--data", "x", "--steps", "6", "--step-tokens", "100"),
        c,
        rates=rates,
        rows=rows,
    )
    assert short.seconds and long.seconds == pytest.approx(3 * short.seconds)
    epochs = plan(
        "sft",
        settings("sft", "--data", "x", "--epochs", "2", "--step-tokens", "100"),
        c,
        rates=rates,
        rows=rows,
    )
    assert epochs.seconds == pytest.approx(10 * short.seconds)  # 2 epochs of 1,000 tokens are 20 steps of 100
    assert plan("sft", settings("sft", "--data", "x"), c, rates=rates).seconds is None
    size = Size(c, 2, True)
    work = 2 * (size.matrices + size.embedding)
    assert decoding_seconds(size, 100, 1, rates) == pytest.approx(100 * work / 1e8)  # arithmetic binds
    slow = Rates(matrix=1e15, memory=1e6)
    assert decoding_seconds(size, 100, 10, slow) == pytest.approx(10 * work / 1e6)  # reading the weights does


def test_pairs_take_a_third_more_where_the_start_is_asked_too():
    rates, rows = Rates(1e9), Rows(8, 800)
    taken = [
        plan(command, settings(command, "--data", "x", "--steps", "2", *words), config(TINY), rates=rates, rows=rows).seconds
        for command, words in (("sft", ("--step-tokens", "400")), ("dpo", ("--step-pairs", "4")))
    ]  # fmt: skip
    assert taken[1] == pytest.approx(4 / 3 * taken[0])


def test_no_more_tokens_are_held_at_once_than_a_step_or_a_part_of_it_has():
    words = ("--data", "x", "--step-tokens", "5000", "--micro-tokens", "4000")
    few = plan("dpo", settings("dpo", "--data", "x", "--step-pairs", "2"), config(TINY), rows=Rows(2, 20))
    many = plan("dpo", settings("dpo", "--data", "x", "--step-pairs", "2"), config(TINY), rows=Rows(2, 200))
    assert few.phases["training"]["activations"] * 10 == pytest.approx(many.phases["training"]["activations"])
    held = plan("sft", settings("sft", *words), config(TINY), rows=Rows(2, 20)).phases["training"]
    assert held["activations"] * 1e9 == Size(config(TINY), 2, True).activations(4000, False)


def test_time_of_rounds_is_sampling_and_then_learning_in_every_epoch():
    """S + e L for e epochs in each round; with a critic of its own each epoch learns twice."""
    rates = Rates(1e9)

    def seconds(command, *words):
        return plan(
            command,
            settings(command, "--env", "arithmetic", "--updates", "6", *words),
            config(TINY),
            rates=rates,
        ).seconds

    one, two, three = (seconds("grpo", "--rounds", "3", "--epochs", str(e)) for e in (1, 2, 3))
    assert three - two == pytest.approx(two - one) and two - one > 0
    assert seconds("grpo", "--rounds", "6", "--epochs", "2") == pytest.approx(2 * two)
    learning = [
        seconds("ppo", "--critic.trunk", trunk, "--epochs", "3") - seconds("ppo", "--critic.trunk", trunk, "--epochs", "2")
        for trunk in ("shared", "own")
    ]  # fmt: skip
    assert learning[1] == pytest.approx(2 * learning[0])


def test_every_model_that_is_measured_takes_its_time():
    def seconds(*words):
        given = settings("eval", *words, "--env", "arithmetic", "--tasks", "10", "--max-tokens", "8")
        return plan("eval", given, config(TINY), rates=Rates(1e9)).seconds

    one = seconds("--models", "a", "--samples", "1")
    assert seconds("--models", "a", "b", "--samples", "3") == pytest.approx(6 * one)


def test_as_many_rows_are_sampled_at_once_as_there_are_answers_or_tasks_to_measure():
    def sampled(*words):
        words = ("--env", "arithmetic", "--prompts", "2", "--group", "4", "--max-tokens", "31", *words)
        return plan("grpo", settings("grpo", *words), config(TINY)).phases["sampling"]["sampling"] * 1e9

    size = Size(config(TINY), 2, True)
    row, packed = size.cache(1, 96 + 31) + size.drawing(1), size.packed()
    assert sampled("--slots", "64") == pytest.approx(8 * row + packed)
    assert sampled("--slots", "5") == pytest.approx(5 * row + packed)
    measured = ("--eval-every", "1", "--test-tasks", "20")
    assert sampled("--slots", "64", *measured) == pytest.approx(20 * row + packed)


def test_a_command_that_neither_trains_nor_samples_has_no_plan():
    assert plan("merge", settings_of("merge")(models=("a", "b")), config(TINY)).memory == 0


@pytest.mark.parametrize("name", ["rlhf.yaml"])
@pytest.mark.parametrize("quick", [False, True])
def test_shipped_recipes_hold_together(name, quick):
    recipe = read_recipe(RECIPES / name, settings_of, quick=quick)
    for stage in recipe.stages:
        assert stage.kind is None or stage.command in COMMANDS
        if stage.has("optimizer.learning_rate"):
            assert stage.given["save_every"].words != ["0"], f"{stage.name} could not be resumed"
