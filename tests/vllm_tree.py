"""The source of a vLLM that has everything the live knobs rely on, in a few lines a file."""

# a `vllm` folder that has everything, as short as it can be said
TREE = {
    "_version.py": "version: str\n__version__ = version = '9.8.7'\n",
    "config/scheduler.py": """\
class SchedulerConfig:
    scheduler_cls: str | None = None
    async_scheduling: bool | None = None
""",
    "config/speculative.py": """\
class SpeculativeConfig:
    num_speculative_tokens_per_batch_size: list | None = None
""",
    "engine/arg_utils.py": """\
def add_cli_args(group):
    group.add_argument("--scheduler-cls", default=None)
    group.add_argument("--max-num-active-seqs")
    group.add_argument("--max-num-scheduled-tokens")
""",
    "entrypoints/serve/serving.py": """\
class Serving:
    def _base_request_id(self, raw, default=None):
        return raw.headers.get("X-Request-Id")
""",
    "entrypoints/openai/chat.py": """\
class Chat:
    async def create(self, raw):
        return f"chatcmpl-{self._base_request_id(raw)}"
""",
    "entrypoints/openai/completion.py": """\
class Completion:
    async def create(self, raw):
        return f"cmpl-{self._base_request_id(raw)}"
""",
    "v1/core/sched/async_scheduler.py": """\
class AsyncScheduler(Scheduler):
    def _update_after_schedule(self, output):
        self.placeholders = [-1] * output.num_spec_tokens_to_schedule
""",
    "v1/core/sched/output.py": """\
class SchedulerOutput:
    num_scheduled_tokens: dict
    total_num_scheduled_tokens: int
    scheduled_spec_decode_tokens: dict
    num_invalid_spec_tokens: dict | None = None
    num_spec_tokens_to_schedule: int = 0
""",
    "v1/core/sched/scheduler.py": """\
class Scheduler(SchedulerInterface):
    def __init__(self, vllm_config, log_stats=False):
        self.scheduler_config = vllm_config.scheduler_config
        self.max_num_running_reqs = 8
        self.max_num_active_reqs = 8
        self.max_num_scheduled_tokens = 2048
        self.requests: dict = {}
        self.waiting = []
        self.running: list = []
        self.num_spec_tokens = 3
        self.dynamic_sd_lookup: list | None = None

    def schedule(self, throttle_prefills=False):
        budget = self.max_num_scheduled_tokens
        for request in self.running:
            drafts = request.spec_token_ids
        while len(self.running) < self.max_num_active_reqs:
            pass
        assert len(self.running) <= self.max_num_running_reqs
        assert budget <= self.max_num_scheduled_tokens
        return self._output()

    def _output(self):
        k = self.dynamic_sd_lookup[len(self.running)]
        self.schedule  # a circle is no trouble
        self._output()
        return SchedulerOutput(num_spec_tokens_to_schedule=k)

    def update_from_output(self, scheduler_output, model_runner_output):
        pass

    def add_request(self, request):
        pass

    def update_draft_token_ids(self, drafts):
        for request, ids in drafts:
            request.spec_token_ids = ids
""",
    "v1/engine/__init__.py": """\
class EngineCoreOutput(msgspec.Struct, gc=False):
    request_id: str
    new_token_ids: list

class EngineCoreOutputs(msgspec.Struct):
    outputs: list = []
    scheduler_stats: object = None
""",
    "v1/engine/input_processor.py": """\
class InputProcessor:
    @staticmethod
    def assign_request_id(request):
        request.external_req_id = request.request_id
        request.request_id = f"{request.external_req_id}-{random_uuid():.8}"
""",
    "v1/metrics/stats.py": """\
class SchedulerStats:
    spec_decoding_stats: object = None
""",
    "v1/outputs.py": """\
class ModelRunnerOutput:
    req_ids: list
    sampled_token_ids: list
""",
    "v1/request.py": """\
class Request:
    def __init__(self, request_id):
        self.request_id = request_id
        self.spec_token_ids = []

    @property
    def num_output_tokens(self):
        return 0
""",
    "v1/spec_decode/metrics.py": """\
class SpecDecodingStats:
    num_drafts: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    num_accepted_tokens_per_pos: list = []
    num_draft_tokens_per_pos: list = []
""",
    "v1/worker/gpu_model_runner.py": """\
class GPUModelRunner:
    def propose(self, output):
        return output.num_spec_tokens_to_schedule
""",
}
