/* libnvidia-ml.so.1 for tests: every answer comes from the text file that NVML_STUB names.
 *
 * The file is read again at each call, so that a test can change the machine while it is watched.
 * A line is `KEY VALUE...`; a key that begins with a number and a dot belongs to that card:
 *
 *   count 2                                 cards
 *   0.uuid GPU-a          0.name NVIDIA X   who they are
 *   0.power 250500        0.temp 61         milliwatts, degrees Celsius
 *   0.energy 1000         0.energy_w 200    millijoules, and watts by which the counter rises
 *   0.total 80            0.used 5          MiB
 *   0.util 50             0.reasons 0x44    per cent, clock event bits
 *   0.sm 1980             0.mem 2619        MHz
 *   0.mig 1                                 MIG is on
 *   0.process 123 2048                      a computing process and its MiB, `na` for none
 *   0.busy 123 70                           and the per cent of its time the card works for it
 *   error nvmlDeviceGetPowerUsage 3         this call answers with this code
 *   0.error nvmlDeviceGetPowerUsage 15      the same on one card; `*` is every call
 *   hang nvmlDeviceGetTemperature 60        this call takes so many seconds while the line stands
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { OK = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, INVALID_ARGUMENT = 2 };
enum { LINE = 256, CARDS = 8, ANY = -1 };
#define POLL_US 20000
#define ENERGY_PERIOD_MS 100 /* the real counter is renewed about so often */

typedef unsigned long long u64;
typedef struct { u64 total, free, used; } Memory;
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { unsigned pid; u64 used; unsigned gpu_instance, compute_instance; } Process;
typedef struct { unsigned pid; u64 time; unsigned sm, memory, encoder, decoder; } Sample;

static int handles[CARDS]; /* a handle is the address of a card's number here */

/* The n-th value of a key of a card (ANY: of the machine); 0 when there is none. */
static int find(int card, const char *key, int n, char *value) {
    const char *path = getenv("NVML_STUB");
    FILE *file = path == NULL ? NULL : fopen(path, "r");
    char line[LINE], wanted[LINE];
    int found = 0;
    if (file == NULL) return 0;
    if (card == ANY) snprintf(wanted, LINE, "%s ", key);
    else snprintf(wanted, LINE, "%d.%s ", card, key);
    while (!found && fgets(line, LINE, file) != NULL) {
        if (strncmp(line, wanted, strlen(wanted)) != 0 || n-- > 0) continue;
        line[strcspn(line, "\n")] = '\0';
        snprintf(value, LINE, "%s", line + strlen(wanted));
        found = 1;
    }
    fclose(file);
    return found;
}

static int scripted(int card, const char *what, const char *call, double *number) {
    char value[LINE], name[LINE];
    for (int n = 0; find(card, what, n, value); n++)
        if (sscanf(value, "%255s %lf", name, number) == 2 &&
            (strcmp(name, call) == 0 || strcmp(name, "*") == 0))
            return 1;
    return 0;
}

static u64 now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (u64)now.tv_sec * 1000 + (u64)now.tv_nsec / 1000000;
}

/* What stands in the way of a call: it hangs, then it may fail. */
static int barred(int card, const char *call) {
    double seconds, code;
    u64 began = now_ms();
    while (scripted(ANY, "hang", call, &seconds) && now_ms() - began < seconds * 1000)
        usleep(POLL_US);
    if (scripted(ANY, "error", call, &code)) return (int)code;
    if (card != ANY && scripted(card, "error", call, &code)) return (int)code;
    return OK;
}

static int number(int card, const char *key, const char *call, u64 *answer) {
    char value[LINE];
    int code = barred(card, call);
    if (code != OK) return code;
    if (!find(card, key, 0, value)) return NOT_SUPPORTED;
    *answer = strtoull(value, NULL, 0);
    return OK;
}

static int text(int card, const char *key, const char *call, char *answer, unsigned size) {
    char value[LINE];
    int code = barred(card, call);
    if (code != OK) return code;
    if (!find(card, key, 0, value)) return NOT_SUPPORTED;
    snprintf(answer, size, "%s", value);
    return OK;
}

#define UNSIGNED(call, key)                                    \
    int call(int *card, unsigned *answer) {                    \
        u64 found = 0;                                         \
        int code = number(*card, key, #call, &found);          \
        if (code == OK) *answer = (unsigned)found;             \
        return code;                                           \
    }

int nvmlInitWithFlags(unsigned flags) { (void)flags; return barred(ANY, "nvmlInitWithFlags"); }
int nvmlShutdown(void) { return barred(ANY, "nvmlShutdown"); }

int nvmlDeviceGetCount_v2(unsigned *count) {
    u64 found = 0;
    int code = number(ANY, "count", "nvmlDeviceGetCount_v2", &found);
    *count = (unsigned)found;
    return code;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, int **handle) {
    int code;
    if (index >= CARDS) return INVALID_ARGUMENT;
    handles[index] = (int)index;
    code = barred((int)index, "nvmlDeviceGetHandleByIndex_v2");
    if (code == OK) *handle = &handles[index];
    return code;
}

int nvmlDeviceGetUUID(int *card, char *answer, unsigned size) {
    return text(*card, "uuid", "nvmlDeviceGetUUID", answer, size);
}

int nvmlDeviceGetName(int *card, char *answer, unsigned size) {
    return text(*card, "name", "nvmlDeviceGetName", answer, size);
}

int nvmlSystemGetDriverVersion(char *answer, unsigned size) {
    return text(ANY, "driver", "nvmlSystemGetDriverVersion", answer, size);
}

UNSIGNED(nvmlDeviceGetPowerUsage, "power")

int nvmlDeviceGetTemperature(int *card, int sensor, unsigned *answer) {
    u64 found = 0;
    int code = number(*card, "temp", "nvmlDeviceGetTemperature", &found);
    (void)sensor;
    if (code == OK) *answer = (unsigned)found;
    return code;
}

int nvmlDeviceGetTotalEnergyConsumption(int *card, u64 *answer) {
    char value[LINE];
    int code = number(*card, "energy", "nvmlDeviceGetTotalEnergyConsumption", answer);
    if (code == OK && find(*card, "energy_w", 0, value))
        *answer += strtoull(value, NULL, 0) * (now_ms() / ENERGY_PERIOD_MS * ENERGY_PERIOD_MS);
    return code;
}

int nvmlDeviceGetMemoryInfo(int *card, Memory *answer) {
    u64 total = 0, used = 0;
    int code = number(*card, "total", "nvmlDeviceGetMemoryInfo", &total);
    if (code == OK) code = number(*card, "used", "nvmlDeviceGetMemoryInfo", &used);
    answer->total = total << 20;
    answer->used = used << 20;
    answer->free = answer->total - answer->used;
    return code;
}

int nvmlDeviceGetUtilizationRates(int *card, Utilization *answer) {
    u64 found = 0;
    int code = number(*card, "util", "nvmlDeviceGetUtilizationRates", &found);
    answer->gpu = (unsigned)found;
    answer->memory = 0;
    return code;
}

int nvmlDeviceGetClockInfo(int *card, int which, unsigned *answer) {
    u64 found = 0;
    int code = number(*card, which == 1 ? "sm" : "mem", "nvmlDeviceGetClockInfo", &found);
    if (code == OK) *answer = (unsigned)found;
    return code;
}

int nvmlDeviceGetCurrentClocksEventReasons(int *card, u64 *answer) {
    return number(*card, "reasons", "nvmlDeviceGetCurrentClocksEventReasons", answer);
}

int nvmlDeviceGetCurrentClocksThrottleReasons(int *card, u64 *answer) {
    return number(*card, "reasons", "nvmlDeviceGetCurrentClocksThrottleReasons", answer);
}

int nvmlDeviceGetMigMode(int *card, unsigned *current, unsigned *pending) {
    u64 found = 0;
    int code = number(*card, "mig", "nvmlDeviceGetMigMode", &found);
    *current = *pending = (unsigned)found;
    return code;
}

int nvmlDeviceGetComputeRunningProcesses_v3(int *card, unsigned *count, Process *answer) {
    char value[LINE], used[LINE];
    unsigned pid, room = *count;
    int code = barred(*card, "nvmlDeviceGetComputeRunningProcesses_v3");
    if (code != OK) return code;
    for (*count = 0; find(*card, "process", (int)*count, value); (*count)++) {
        if (*count >= room || answer == NULL) continue;
        if (sscanf(value, "%u %255s", &pid, used) != 2) return INVALID_ARGUMENT;
        answer[*count].pid = pid;
        answer[*count].used = strcmp(used, "na") == 0 ? ~0ULL : strtoull(used, NULL, 0) << 20;
        answer[*count].gpu_instance = answer[*count].compute_instance = ~0U;
    }
    return *count > room ? INSUFFICIENT_SIZE : OK;
}

/* As the driver does: no news since the time given is NOT_FOUND. */
int nvmlDeviceGetProcessUtilization(int *card, Sample *answer, unsigned *count, u64 since) {
    char value[LINE];
    unsigned room = *count, pid, busy;
    u64 now = now_ms() * 1000;
    int code = barred(*card, "nvmlDeviceGetProcessUtilization");
    if (code != OK) return code;
    for (*count = 0; find(*card, "busy", (int)*count, value); (*count)++) {
        if (*count >= room || answer == NULL) continue;
        if (sscanf(value, "%u %u", &pid, &busy) != 2) return INVALID_ARGUMENT;
        answer[*count] = (Sample){.pid = pid, .time = now, .sm = busy};
    }
    if (*count == 0 || now <= since) return NOT_FOUND;
    return *count > room || answer == NULL ? INSUFFICIENT_SIZE : OK;
}
