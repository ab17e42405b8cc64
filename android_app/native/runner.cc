#include "runner.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <map>
#include <optional>
#include <set>
#include <sstream>

namespace deploykit {
namespace {

constexpr int64_t kLookEvery = 100000000;  // nanoseconds between two looks at the clocks, at least
constexpr int kMark = 0x64706b74;  // a prctl that no kernel knows: it does nothing but can be seen from outside

#if defined(__aarch64__)
constexpr const char* kAbi = "aarch64";
#elif defined(__x86_64__)
constexpr const char* kAbi = "x86_64";
#else
#error "the runners are for aarch64 and x86_64"
#endif

struct UsageError : Error {
  using Error::Error;
};

struct InputSpec {
  std::string path;
  std::string dtype;
  std::vector<int64_t> shape;
};

struct Options {
  std::string model;
  std::string result;
  std::vector<InputSpec> inputs;
  int threads = 0;
  int warmup = 0;
  int iterations = 0;
  std::vector<int> cores;
  std::string outputs;
  bool mark = false;
};

struct Memory {
  std::optional<long> resident_kb;
  std::optional<long> peak_kb;
};

struct Clocks {
  int64_t at_ns;
  std::map<int, long> mhz;
};

struct Measurement {
  int64_t load_ns = 0;
  std::vector<int64_t> warmup_ns;
  std::vector<int64_t> samples_ns;
  std::vector<int64_t> window_ns;  // when the timed inferences began and ended, since the machine was started
  Memory before;
  Memory loaded;
  Memory end;
  std::vector<Clocks> clocks;
};

std::string reason() { return std::strerror(errno); }

// The command line.

int64_t number(const std::string& text, int64_t least, const std::string& what) {
  int64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, problem] = std::from_chars(text.data(), end, value);
  if (problem != std::errc() || stop != end || value < least || value > INT32_MAX) {
    throw UsageError(what + " must be a whole number from " + std::to_string(least) + " on, not '" + text + "'");
  }
  return value;
}

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  std::istringstream stream(text + ",");
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
  return parts;
}

size_t item_size(const std::string& dtype) {
  static const std::map<std::string, size_t> sizes = {
      {"float32", 4}, {"float16", 2}, {"float64", 8}, {"int64", 8}, {"int32", 4},
      {"int16", 2},   {"int8", 1},    {"uint8", 1},   {"bool", 1},
  };
  const auto found = sizes.find(dtype);
  if (found == sizes.end()) throw UsageError("there is no type of elements called '" + dtype + "'");
  return found->second;
}

InputSpec input_spec(const std::string& text) {
  const size_t second = text.rfind(':');
  const size_t first = second == std::string::npos || second == 0 ? std::string::npos : text.rfind(':', second - 1);
  if (first == std::string::npos || first == 0) {
    throw UsageError("--input is FILE:DTYPE:1,3,224,224, not '" + text + "'");
  }
  InputSpec spec{text.substr(0, first), text.substr(first + 1, second - first - 1), {}};
  item_size(spec.dtype);
  const std::string shape = text.substr(second + 1);
  if (!shape.empty()) {
    for (const auto& side : split(shape)) spec.shape.push_back(number(side, 1, "a side of an --input"));
  }
  return spec;
}

Options parse(int argc, char** argv) {
  Options options;
  std::set<std::string> seen;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name != "--input" && !seen.insert(name).second) throw UsageError(name + " is given twice");
    if (name == "--mark") {
      options.mark = true;
      continue;
    }
    static const std::set<std::string> known = {"--model",      "--input", "--threads", "--warmup",
                                                "--iterations", "--cores", "--outputs", "--result"};
    if (known.count(name) == 0) throw UsageError("there is no option '" + name + "'");
    if (++i == argc) throw UsageError(name + " needs a value");
    const std::string value = argv[i];
    if (value.empty()) throw UsageError(name + " needs a value");
    if (name == "--model") options.model = value;
    if (name == "--input") options.inputs.push_back(input_spec(value));
    if (name == "--threads") options.threads = number(value, 1, name);
    if (name == "--warmup") options.warmup = number(value, 0, name);
    if (name == "--iterations") options.iterations = number(value, 1, name);
    if (name == "--outputs") options.outputs = value;
    if (name == "--result") options.result = value;
    if (name == "--cores") {
      for (const auto& core : split(value)) options.cores.push_back(number(core, 0, "a core of --cores"));
    }
  }
  for (const std::string name : {"--model", "--threads", "--warmup", "--iterations", "--result"}) {
    if (seen.count(name) == 0) throw UsageError(name + " is missing");
  }
  if (options.inputs.empty()) throw UsageError("--input is missing");
  return options;
}

// Files.

std::vector<char> read_input(const InputSpec& spec) {
  size_t expected = item_size(spec.dtype);
  for (const int64_t side : spec.shape) {
    if (__builtin_mul_overflow(expected, static_cast<size_t>(side), &expected)) {
      throw UsageError("the input " + spec.path + " cannot be as large as its shape says");
    }
  }
  struct stat about;
  if (stat(spec.path.c_str(), &about) != 0) throw Error("cannot read the input " + spec.path + ": " + reason());
  if (!S_ISREG(about.st_mode)) throw Error("the input " + spec.path + " is not a file");
  if (static_cast<uint64_t>(about.st_size) != expected) {
    throw Error("the input " + spec.path + " has " + std::to_string(about.st_size) + " bytes; its shape and type need " +
                std::to_string(expected));
  }
  std::vector<char> bytes(expected);
  std::ifstream file(spec.path, std::ios::binary);
  if (!file.read(bytes.data(), static_cast<std::streamsize>(expected))) {
    throw Error("cannot read the input " + spec.path + ": " + reason());
  }
  return bytes;
}

void check_model(const std::string& path) {
  struct stat about;
  if (stat(path.c_str(), &about) != 0) throw Error("cannot read the model " + path + ": " + reason());
  if (!S_ISREG(about.st_mode)) throw Error("the model " + path + " is not a file");
  if (access(path.c_str(), R_OK) != 0) throw Error("cannot read the model " + path + ": " + reason());
}

// Write a file whole: under another name, on the disk, and then under its own.
void write_whole(const std::string& path, const void* data, size_t size) {
  const std::string part = path + ".part";
  const int file = open(part.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file < 0) throw Error("cannot write " + path + ": " + reason());
  const char* next = static_cast<const char*>(data);
  bool good = true;
  while (good && size > 0) {
    const ssize_t written = write(file, next, size);
    if (written < 0 && errno == EINTR) continue;
    good = written > 0;
    if (good) {
      next += written;
      size -= static_cast<size_t>(written);
    }
  }
  good = good && fsync(file) == 0;
  int problem = errno;
  if (close(file) != 0 && good) {
    good = false;
    problem = errno;
  }
  if (good && rename(part.c_str(), path.c_str()) != 0) {
    good = false;
    problem = errno;
  }
  if (!good) {
    unlink(part.c_str());
    throw Error("cannot write " + path + ": " + std::strerror(problem));
  }
}

std::string output_file(size_t index) { return std::to_string(index) + ".bin"; }

void write_outputs(const std::string& folder, const std::vector<Output>& outputs) {
  if (mkdir(folder.c_str(), 0755) != 0 && errno != EEXIST) throw Error("cannot make " + folder + ": " + reason());
  for (size_t i = 0; i < outputs.size(); ++i) {
    write_whole(folder + "/" + output_file(i), outputs[i].data, outputs[i].size);
  }
}

// The machine.

// Room for more cores than a `cpu_set_t` has, which no phone needs and some servers do.
struct CoreSet {
  static constexpr int kMost = 8192;
  cpu_set_t* set = CPU_ALLOC(kMost);
  size_t size = CPU_ALLOC_SIZE(kMost);
  CoreSet() { CPU_ZERO_S(size, set); }
  ~CoreSet() { CPU_FREE(set); }
  CoreSet(const CoreSet&) = delete;
  CoreSet& operator=(const CoreSet&) = delete;
};

std::optional<std::vector<int>> affinity() {
  CoreSet cores;
  if (sched_getaffinity(0, cores.size, cores.set) != 0) return std::nullopt;
  std::vector<int> list;
  for (int core = 0; core < CoreSet::kMost; ++core) {
    if (CPU_ISSET_S(core, cores.size, cores.set)) list.push_back(core);
  }
  return list;
}

// Keep this process, and the threads that it will start, to some cores.
void pin(std::vector<int> wanted) {
  CoreSet cores;
  std::string named;
  for (const int core : wanted) {
    if (core < CoreSet::kMost) CPU_SET_S(core, cores.size, cores.set);
    named += (named.empty() ? "" : ",") + std::to_string(core);
  }
  if (sched_setaffinity(0, cores.size, cores.set) != 0) throw Error("cannot run on the cores " + named + ": " + reason());
  std::sort(wanted.begin(), wanted.end());
  wanted.erase(std::unique(wanted.begin(), wanted.end()), wanted.end());
  const auto given = affinity();  // a core that is off or not there is left out without a word
  if (given && *given != wanted) throw Error("not all of the cores " + named + " are there to run on");
}

int64_t now_ns(clockid_t clock = CLOCK_MONOTONIC) {
  timespec time;
  clock_gettime(clock, &time);
  return int64_t{time.tv_sec} * 1000000000 + time.tv_nsec;
}

Memory memory() {
  Memory memory;
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    long value = 0;
    if (std::sscanf(line.c_str(), "VmRSS: %ld kB", &value) == 1) memory.resident_kb = value;
    if (std::sscanf(line.c_str(), "VmHWM: %ld kB", &value) == 1) memory.peak_kb = value;
  }
  return memory;
}

// Reads the clocks of the cores that this process may run on. The files stay open, so that a look costs a read each.
class ClockReader {
 public:
  ClockReader() {
    const auto cores = affinity();
    const long configured = sysconf(_SC_NPROCESSORS_CONF);
    for (int core = 0; core < configured; ++core) {
      if (cores && std::find(cores->begin(), cores->end(), core) == cores->end()) continue;
      const auto path = "/sys/devices/system/cpu/cpu" + std::to_string(core) + "/cpufreq/scaling_cur_freq";
      const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
      if (file >= 0) files_[core] = file;
    }
  }
  ~ClockReader() {
    for (const auto& [core, file] : files_) close(file);
  }
  ClockReader(const ClockReader&) = delete;
  ClockReader& operator=(const ClockReader&) = delete;

  std::map<int, long> mhz() const {
    std::map<int, long> clocks;
    for (const auto& [core, file] : files_) {
      char text[32];
      const ssize_t size = pread(file, text, sizeof(text), 0);
      long khz = 0;
      if (size > 0 && std::from_chars(text, text + size, khz).ec == std::errc()) clocks[core] = khz / 1000;
    }
    return clocks;
  }

 private:
  std::map<int, int> files_;
};

// The measurement.

int64_t timed(Engine& engine, bool mark) {
  if (mark) prctl(kMark, 1);
  const int64_t start = now_ns();
  engine.infer();
  const int64_t end = now_ns();
  if (mark) prctl(kMark, 0);
  return end - start;
}

Measurement measure(Engine& engine, const Options& options, const std::vector<Input>& inputs) {
  Measurement measured;
  measured.before = memory();
  const int64_t opened = now_ns();
  engine.load(options.model, options.threads);
  measured.load_ns = now_ns() - opened;
  measured.loaded = memory();
  engine.prepare(inputs);
  for (int i = 0; i < options.warmup; ++i) measured.warmup_ns.push_back(timed(engine, false));
  const ClockReader reader;
  const int64_t start = now_ns();
  int64_t looked = start;
  const auto look = [&] {
    const auto mhz = reader.mhz();
    if (!mhz.empty()) measured.clocks.push_back({looked - start, mhz});
  };
  look();
  measured.samples_ns.reserve(static_cast<size_t>(options.iterations));
  measured.window_ns.push_back(now_ns(CLOCK_BOOTTIME));
  for (int i = 0; i < options.iterations; ++i) {
    measured.samples_ns.push_back(timed(engine, options.mark));
    const int64_t now = now_ns();
    if (i + 1 < options.iterations && (options.mark || now - looked < kLookEvery)) continue;
    if (i + 1 == options.iterations) measured.window_ns.push_back(now_ns(CLOCK_BOOTTIME));
    looked = now;
    look();
  }
  measured.end = memory();
  return measured;
}

// The result, as JSON; every string in it is plain.

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (static_cast<unsigned char>(c) >= ' ') out += c;
  }
  return out + "\"";
}

template <typename T>
std::string list(const std::vector<T>& values) {
  std::string out = "[";
  for (const auto& value : values) out += (out.size() > 1 ? ", " : "") + std::to_string(value);
  return out + "]";
}

std::string or_null(const std::optional<long>& value) { return value ? std::to_string(*value) : "null"; }

std::string clocks_json(const std::vector<Clocks>& clocks) {
  std::string out = "[";
  for (const auto& sample : clocks) {
    out += (out.size() > 1 ? ", " : "") + std::string("{\"at_ns\": ") + std::to_string(sample.at_ns) + ", \"mhz\": {";
    bool first = true;
    for (const auto& [core, mhz] : sample.mhz) {
      out += (first ? "" : ", ") + quoted(std::to_string(core)) + ": " + std::to_string(mhz);
      first = false;
    }
    out += "}}";
  }
  return out + "]";
}

std::string outputs_json(const std::vector<Output>& outputs, bool written) {
  std::string out = "[";
  for (size_t i = 0; i < outputs.size(); ++i) {
    out += (i > 0 ? ", " : "") + std::string("{\"file\": ") + (written ? quoted(output_file(i)) : "null") +
           ", \"dtype\": " + quoted(outputs[i].dtype) + ", \"shape\": " + list(outputs[i].shape) + "}";
  }
  return out + "]";
}

std::string result_json(const Engine& engine, const Options& options, const Measurement& measured,
                        const std::vector<Output>& outputs) {
  const auto cores = affinity();
  const auto first = measured.warmup_ns.empty() ? measured.samples_ns.front() : measured.warmup_ns.front();
  std::ostringstream out;
  out << "{\"schema\": 1, \"runner\": " << quoted("deploykit-" + engine.name() + " 1")
      << ", \"engine\": " << quoted(engine.name()) << ", \"runtime\": " << quoted(engine.runtime())
      << ",\n \"abi\": " << quoted(kAbi) << ", \"threads\": " << options.threads
      << ", \"affinity\": " << (cores ? list(*cores) : "null") << ", \"load_ns\": " << measured.load_ns
      << ", \"first_ns\": " << first << ",\n \"warmup_ns\": " << list(measured.warmup_ns)
      << ",\n \"samples_ns\": " << list(measured.samples_ns) << ",\n \"window_ns\": " << list(measured.window_ns)
      << ",\n \"memory\": {\"baseline_kb\": " << or_null(measured.before.resident_kb)
      << ", \"loaded_kb\": " << or_null(measured.loaded.resident_kb)
      << ", \"peak_kb\": " << or_null(measured.end.peak_kb) << "},\n \"clocks_mhz\": " << clocks_json(measured.clocks)
      << ",\n \"outputs\": " << outputs_json(outputs, !options.outputs.empty()) << "}\n";
  return out.str();
}

void work(const Options& options, Engine& engine) {
  if (!options.cores.empty()) pin(options.cores);
  check_model(options.model);
  std::vector<Input> inputs;
  for (const auto& spec : options.inputs) inputs.push_back({spec.dtype, spec.shape, read_input(spec)});
  const Measurement measured = measure(engine, options, inputs);
  const auto outputs = engine.outputs();
  if (!options.outputs.empty()) write_outputs(options.outputs, outputs);
  const std::string json = result_json(engine, options, measured, outputs);
  write_whole(options.result, json.data(), json.size());
}

int fail(int code, const std::string& text) {
  std::cerr << "error: " << text.substr(0, text.find('\n')) << std::endl;
  return code;
}

}  // namespace

int run(int argc, char** argv, Engine& engine) {
  try {
    work(parse(argc, argv), engine);
    return 0;
  } catch (const UsageError& error) {
    return fail(2, error.what());
  } catch (const std::bad_alloc&) {
    return fail(1, "out of memory");
  } catch (const std::exception& error) {
    return fail(1, error.what());
  }
}

}  // namespace deploykit
