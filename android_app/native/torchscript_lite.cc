// The runner of TorchScript-lite files (.ptl): PyTorch's mobile interpreter.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>
#include <torch/csrc/jit/mobile/import.h>
#include <torch/csrc/jit/mobile/module.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <optional>
#include <string>

#include "runner.h"

namespace deploykit {
namespace {

const std::map<std::string, c10::ScalarType>& types() {
  static const std::map<std::string, c10::ScalarType> types = {
      {"float32", c10::kFloat}, {"float16", c10::kHalf}, {"float64", c10::kDouble},
      {"int64", c10::kLong},    {"int32", c10::kInt},    {"int16", c10::kShort},
      {"int8", c10::kChar},     {"uint8", c10::kByte},   {"bool", c10::kBool},
  };
  return types;
}

std::string type_name(c10::ScalarType type) {
  for (const auto& [name, known] : types()) {
    if (known == type) return name;
  }
  throw Error(std::string("the model gives ") + c10::toString(type) + " elements, which are not known here");
}

void flatten(const c10::IValue& value, std::vector<at::Tensor>& tensors) {
  if (value.isTensor()) {
    tensors.push_back(value.toTensor().contiguous());
  } else if (value.isTuple()) {
    for (const auto& item : value.toTupleRef().elements()) flatten(item, tensors);
  } else if (value.isList()) {
    for (const c10::IValue& item : value.toListRef()) flatten(item, tensors);
  } else if (value.isGenericDict()) {
    for (const auto& item : value.toGenericDict()) flatten(item.value(), tensors);
  } else {
    throw Error("an output of the model is not a tensor");
  }
}

class TorchScriptLite final : public Engine {
 public:
  std::string name() const override { return "torchscript-lite"; }
  std::string runtime() const override { return DEPLOYKIT_RUNTIME; }

  void load(const std::string& path, int threads) override {
    at::set_num_threads(threads);
    at::globalContext().setUserEnabledMkldnn(false);  // Debian's libtorch has oneDNN, and no phone's has
    try {
      module_.emplace(torch::jit::_load_for_mobile(path, c10::Device(c10::kCPU)));
      module_->get_method("forward");
    } catch (const c10::Error& error) {
      throw Error(std::string("the file cannot be loaded: ") + error.what_without_backtrace());
    }
  }

  void prepare(const std::vector<Input>& inputs) override {
    for (const auto& input : inputs) {
      at::Tensor tensor = at::empty(input.shape, types().at(input.dtype));
      std::memcpy(tensor.data_ptr(), input.bytes.data(), input.bytes.size());
      inputs_.emplace_back(tensor);
    }
  }

  void infer() override {
    const c10::InferenceMode guard;
    try {
      result_ = module_->forward(inputs_);
    } catch (const c10::Error& error) {
      throw Error(std::string("the inference failed: ") + error.what_without_backtrace());
    }
  }

  std::vector<Output> outputs() override {
    const c10::InferenceMode guard;
    tensors_.clear();
    flatten(result_, tensors_);
    std::vector<Output> outputs;
    for (const auto& tensor : tensors_) {
      outputs.push_back({type_name(tensor.scalar_type()), tensor.sizes().vec(), tensor.data_ptr(), tensor.nbytes()});
    }
    return outputs;
  }

 private:
  std::optional<torch::jit::mobile::Module> module_;
  std::vector<c10::IValue> inputs_;
  c10::IValue result_;
  std::vector<at::Tensor> tensors_;
};

// Start again with what OpenBLAS and OpenMP read once, before `main`: their numbers of threads, that idle ones sleep
// (with two, spinning made an inference thirty times longer), and the kernels for 512-bit vectors, which OpenBLAS does
// not choose on every processor that has them.
void settle_environment(int argc, char** argv) {
  std::string threads = "1";
  for (int i = 1; i + 1 < argc; ++i) {
    const std::string value = argv[i + 1];
    const bool digits = value.find_first_not_of("0123456789") == std::string::npos;
    const bool some = value.find_first_not_of("0") != std::string::npos;
    if (digits && some && std::strcmp(argv[i], "--threads") == 0) threads = value;
  }
  std::map<std::string, std::string> wanted = {
      {"OMP_NUM_THREADS", threads}, {"OPENBLAS_NUM_THREADS", threads}, {"OMP_WAIT_POLICY", "passive"}};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512vl")) wanted["OPENBLAS_CORETYPE"] = "SkylakeX";
#endif
  bool changed = false;
  for (const auto& [name, value] : wanted) {
    const char* present = std::getenv(name.c_str());
    if (name == "OPENBLAS_CORETYPE" ? present != nullptr : present != nullptr && value == present) continue;
    changed = true;
    setenv(name.c_str(), value.c_str(), 1);
  }
  if (!changed) return;
  std::ifstream file("/proc/self/cmdline", std::ios::binary);  // with the loader, where one started this program
  std::vector<std::string> words;
  for (std::string word; std::getline(file, word, '\0');) words.push_back(word);
  std::vector<char*> command;
  for (auto& word : words) command.push_back(word.data());
  command.push_back(nullptr);
  if (!words.empty()) execv("/proc/self/exe", command.data());  // an emulator may not know how: then it stays as it is
}

}  // namespace
}  // namespace deploykit

int main(int argc, char** argv) {
  deploykit::settle_environment(argc, argv);
  deploykit::TorchScriptLite engine;
  return deploykit::run(argc, argv, engine);
}
