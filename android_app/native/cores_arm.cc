// What XNNPACK and ExecuTorch ask about an arm64 processor: its instructions, and its kinds of core, by which kernels
// are chosen. ExecuTorch's wheel leaves these answers to PyTorch's library; they are given here as the kernel has them
// (torch's header `cpuinfo.h` says what is asked). On x86-64 that library is small, and comes along as it is.

#include <cpuinfo.h>
#include <sched.h>
#include <sys/auxv.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <map>
#include <string>
#include <vector>

struct cpuinfo_arm_isa cpuinfo_isa;

namespace {

std::vector<cpuinfo_processor> processors;
std::vector<cpuinfo_core> cores;
std::vector<cpuinfo_cluster> clusters;
std::vector<cpuinfo_uarch_info> kinds;

bool bit(unsigned long word, int number) { return (word >> number & 1) != 0; }

void read_instructions() {
  const unsigned long first = getauxval(AT_HWCAP);
  const unsigned long second = getauxval(AT_HWCAP2);
  cpuinfo_isa.pmull = bit(first, 4);
  cpuinfo_isa.aes = bit(first, 3);
  cpuinfo_isa.sha1 = bit(first, 5);
  cpuinfo_isa.sha2 = bit(first, 6);
  cpuinfo_isa.crc32 = bit(first, 7);
  cpuinfo_isa.atomics = bit(first, 8);
  cpuinfo_isa.fp16arith = bit(first, 9) && bit(first, 10);
  cpuinfo_isa.rdm = bit(first, 12);
  cpuinfo_isa.jscvt = bit(first, 13);
  cpuinfo_isa.fcma = bit(first, 14);
  cpuinfo_isa.dot = bit(first, 20);
  cpuinfo_isa.fhm = bit(first, 23);
  cpuinfo_isa.i8mm = bit(second, 13);
  cpuinfo_isa.bf16 = bit(second, 14);
  // The scalable vectors stay out: no phone's kernel lets a program have their length without more questions.
}

uint64_t highest_khz(int processor) {
  std::ifstream file("/sys/devices/system/cpu/cpu" + std::to_string(processor) + "/cpufreq/cpuinfo_max_freq");
  uint64_t khz = 0;
  return file >> khz ? khz : 0;
}

// A core's MIDR, the number that says who made it and what it is, or 0.
unsigned long midr(int processor) {
  std::ifstream file("/sys/devices/system/cpu/cpu" + std::to_string(processor) + "/regs/identification/midr_el1");
  unsigned long value = 0;
  if (file >> std::hex >> value) return value;
  return 0;
}

// The same from /proc/cpuinfo, which older phones have alone: by the processors that it lists.
std::map<int, unsigned long> listed_midrs() {
  std::map<int, unsigned long> found;
  std::ifstream file("/proc/cpuinfo");
  int processor = -1;
  for (std::string line; std::getline(file, line);) {
    unsigned value = 0;
    if (std::sscanf(line.c_str(), "processor : %d", &processor) == 1) found[processor] = 0;
    if (processor < 0) continue;
    if (std::sscanf(line.c_str(), "CPU implementer : %x", &value) == 1) found[processor] |= (value & 0xffUL) << 24;
    if (std::sscanf(line.c_str(), "CPU part : %x", &value) == 1) found[processor] |= (value & 0xfffUL) << 4;
  }
  return found;
}

cpuinfo_uarch kind_of(unsigned long midr) {
  static const std::map<unsigned long, cpuinfo_uarch> arm = {
      {0xd02, cpuinfo_uarch_cortex_a35},  {0xd03, cpuinfo_uarch_cortex_a53},  {0xd04, cpuinfo_uarch_cortex_a35},
      {0xd05, cpuinfo_uarch_cortex_a55},  {0xd06, cpuinfo_uarch_cortex_a65},  {0xd07, cpuinfo_uarch_cortex_a57},
      {0xd08, cpuinfo_uarch_cortex_a72},  {0xd09, cpuinfo_uarch_cortex_a73},  {0xd0a, cpuinfo_uarch_cortex_a75},
      {0xd0b, cpuinfo_uarch_cortex_a76},  {0xd0c, cpuinfo_uarch_neoverse_n1}, {0xd0d, cpuinfo_uarch_cortex_a77},
      {0xd0e, cpuinfo_uarch_cortex_a76},  {0xd40, cpuinfo_uarch_neoverse_v1}, {0xd41, cpuinfo_uarch_cortex_a78},
      {0xd44, cpuinfo_uarch_cortex_x1},   {0xd46, cpuinfo_uarch_cortex_a510}, {0xd47, cpuinfo_uarch_cortex_a710},
      {0xd48, cpuinfo_uarch_cortex_x2},   {0xd49, cpuinfo_uarch_neoverse_n2}, {0xd4b, cpuinfo_uarch_cortex_a78},
      {0xd4c, cpuinfo_uarch_cortex_x1},   {0xd4d, cpuinfo_uarch_cortex_a715}, {0xd4e, cpuinfo_uarch_cortex_x3},
      {0xd4f, cpuinfo_uarch_neoverse_v2}, {0xd80, cpuinfo_uarch_cortex_a520}, {0xd81, cpuinfo_uarch_cortex_a720},
      {0xd82, cpuinfo_uarch_cortex_x4},
  };
  static const std::map<unsigned long, cpuinfo_uarch> qualcomm = {
      {0x800, cpuinfo_uarch_cortex_a73}, {0x801, cpuinfo_uarch_cortex_a53}, {0x802, cpuinfo_uarch_cortex_a75},
      {0x803, cpuinfo_uarch_cortex_a55}, {0x804, cpuinfo_uarch_cortex_a76}, {0x805, cpuinfo_uarch_cortex_a55},
  };
  const unsigned long maker = midr >> 24 & 0xff;
  const auto& table = maker == 'Q' ? qualcomm : arm;
  const auto found = table.find(midr >> 4 & 0xfff);
  return (maker == 'A' || maker == 'Q') && found != table.end() ? found->second : cpuinfo_uarch_unknown;
}

// The kinds of core, the fastest first: XNNPACK takes the first kind for the one to choose kernels for.
void read_cores() {
  const long count = sysconf(_SC_NPROCESSORS_CONF);
  std::vector<std::pair<uint64_t, int>> order;
  for (int number = 0; number < std::max(count, 1L); ++number) order.emplace_back(highest_khz(number), number);
  std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  const auto listed = listed_midrs();
  processors.resize(order.size());
  cores.resize(order.size());
  clusters.resize(order.size());
  for (size_t i = 0; i < order.size(); ++i) {
    const auto [khz, number] = order[i];
    unsigned long id = midr(number);
    if (id == 0 && listed.count(number) != 0) id = listed.at(number);
    const cpuinfo_uarch kind = kind_of(id);
    const uint32_t index = static_cast<uint32_t>(i);
    clusters[i] = {};
    clusters[i].uarch = kind;
    clusters[i].midr = static_cast<uint32_t>(id);
    cores[i] = {index, 1, index, &clusters[i], nullptr, cpuinfo_vendor_unknown, kind, clusters[i].midr, khz * 1000};
    processors[i] = {};
    processors[i].core = &cores[i];
    processors[i].cluster = &clusters[i];
    processors[i].linux_id = number;
    const auto same = std::find_if(kinds.begin(), kinds.end(), [&](const auto& other) { return other.uarch == kind; });
    if (same == kinds.end()) {
      kinds.push_back({kind, clusters[i].midr, 1, 1});
    } else {
      ++same->processor_count;
      ++same->core_count;
    }
  }
}

}  // namespace

extern "C" {

bool cpuinfo_initialize() {
  static const bool done = [] {
    read_instructions();
    read_cores();
    return true;
  }();
  return done;
}

uint32_t cpuinfo_get_processors_count() { return static_cast<uint32_t>(processors.size()); }
const cpuinfo_processor* cpuinfo_get_processor(uint32_t index) {
  return index < processors.size() ? &processors[index] : nullptr;
}
uint32_t cpuinfo_get_uarchs_count() { return static_cast<uint32_t>(kinds.size()); }
const cpuinfo_uarch_info* cpuinfo_get_uarch(uint32_t index) { return index < kinds.size() ? &kinds[index] : nullptr; }

uint32_t cpuinfo_get_current_uarch_index_with_default(uint32_t otherwise) {
  const int here = sched_getcpu();
  for (const auto& processor : processors) {
    if (processor.linux_id != here) continue;
    for (size_t i = 0; i < kinds.size(); ++i) {
      if (kinds[i].uarch == processor.core->uarch) return static_cast<uint32_t>(i);
    }
  }
  return otherwise;
}

}  // extern "C"
