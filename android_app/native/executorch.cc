// The runner of ExecuTorch's programs (.pte).

#include <executorch/runtime/core/data_loader.h>
#include <executorch/runtime/core/evalue.h>
#include <executorch/runtime/core/exec_aten/exec_aten.h>
#include <executorch/runtime/core/hierarchical_allocator.h>
#include <executorch/runtime/executor/memory_manager.h>
#include <executorch/runtime/executor/method.h>
#include <executorch/runtime/executor/program.h>
#include <executorch/runtime/platform/platform.h>
#include <executorch/runtime/platform/runtime.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <optional>

#include "runner.h"

// The package has this class in its library; its own header of it wants others that are not in the package.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  bool _unsafe_reset_threadpool(uint32_t threads);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

namespace deploykit {
namespace {

namespace et = executorch::runtime;
using executorch::aten::ScalarType;
using executorch::aten::Tensor;
using executorch::aten::TensorImpl;

constexpr size_t kAlignment = 64;

std::string last_log;  // the runtime's own words about what went wrong

void keep_log(et_timestamp_t, et_pal_log_level_t level, const char*, const char*, size_t, const char* message,
              size_t length) {
  if (level == kError || level == kFatal) last_log.assign(message, length);
}

void check(et::Error error, const std::string& what) {
  if (error == et::Error::Ok) return;
  const std::string why = last_log.empty() ? "" : ": " + last_log;
  throw Error(what + " (" + et::to_string(error) + ")" + why);
}

char* allocate(size_t size) {
  const size_t rounded = (size + kAlignment) / kAlignment * kAlignment;
  char* memory = static_cast<char*>(std::aligned_alloc(kAlignment, rounded));
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

struct Free {
  void operator()(char* memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<char, Free>;

// Reads parts of a file when they are asked for; a delegate gives its part back when it has packed the weights.
class FileLoader final : public et::DataLoader {
 public:
  explicit FileLoader(const std::string& path) : file_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    struct stat about;
    if (file_ < 0 || fstat(file_, &about) != 0) throw Error("cannot read the model " + path + ": " + strerror(errno));
    size_ = static_cast<size_t>(about.st_size);
  }
  ~FileLoader() override { close(file_); }
  FileLoader(const FileLoader&) = delete;
  FileLoader& operator=(const FileLoader&) = delete;

  et::Result<et::FreeableBuffer> load(size_t offset, size_t size, const SegmentInfo& info) const override {
    if (size == 0) return et::FreeableBuffer(nullptr, 0, nullptr);
    if (offset > size_ || size > size_ - offset) return et::Error::InvalidProgram;
    Memory memory(allocate(size));
    const et::Error error = load_into(offset, size, info, memory.get());
    if (error != et::Error::Ok) return error;
    return et::FreeableBuffer(memory.release(), size, [](void*, void* data, size_t) { std::free(data); });
  }

  et::Error load_into(size_t offset, size_t size, const SegmentInfo&, void* buffer) const override {
    if (offset > size_ || size > size_ - offset) return et::Error::InvalidProgram;
    char* next = static_cast<char*>(buffer);
    while (size > 0) {
      const ssize_t got = pread(file_, next, size, static_cast<off_t>(offset));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) return et::Error::AccessFailed;
      next += got;
      offset += static_cast<size_t>(got);
      size -= static_cast<size_t>(got);
    }
    return et::Error::Ok;
  }

  et::Result<size_t> size() const override { return size_; }

 private:
  int file_;
  size_t size_ = 0;
};

// Memory until it is reset, as the runtime does after each operator with the temporary one.
class Heap final : public et::MemoryAllocator {
 public:
  Heap() : MemoryAllocator(0, nullptr) {}
  void* allocate(size_t size, size_t alignment) override {
    if (alignment > kAlignment || size > SIZE_MAX / 2) return nullptr;
    blocks_.emplace_back(deploykit::allocate(size));
    return blocks_.back().get();
  }
  void reset() override { blocks_.clear(); }

 private:
  std::vector<Memory> blocks_;
};

const std::map<std::string, ScalarType>& types() {
  static const std::map<std::string, ScalarType> types = {
      {"float32", ScalarType::Float}, {"float16", ScalarType::Half}, {"float64", ScalarType::Double},
      {"int64", ScalarType::Long},    {"int32", ScalarType::Int},    {"int16", ScalarType::Short},
      {"int8", ScalarType::Char},     {"uint8", ScalarType::Byte},   {"bool", ScalarType::Bool},
  };
  return types;
}

std::string type_name(ScalarType type) {
  for (const auto& [name, known] : types()) {
    if (known == type) return name;
  }
  throw Error("the model gives a type of elements that is not known here");
}

// A tensor over an input's bytes, with the memory that its description takes.
class InputTensor {
 public:
  explicit InputTensor(const Input& input)
      : bytes_(allocate(input.bytes.size())),
        sizes_(input.shape.begin(), input.shape.end()),
        order_(sizes_.size()),
        strides_(sizes_.size()) {
    std::memcpy(bytes_.get(), input.bytes.data(), input.bytes.size());
    int32_t stride = 1;
    for (size_t i = sizes_.size(); i-- > 0;) {
      order_[i] = static_cast<uint8_t>(i);
      strides_[i] = stride;
      stride *= sizes_[i];
    }
    impl_.emplace(types().at(input.dtype), static_cast<ssize_t>(sizes_.size()), sizes_.data(), bytes_.get(),
                  order_.data(), strides_.data());
  }

  et::EValue value() { return et::EValue(Tensor(&*impl_)); }

 private:
  Memory bytes_;
  std::vector<TensorImpl::SizesType> sizes_;
  std::vector<TensorImpl::DimOrderType> order_;
  std::vector<TensorImpl::StridesType> strides_;
  std::optional<TensorImpl> impl_;
};

class Executorch final : public Engine {
 public:
  std::string name() const override { return "executorch"; }
  std::string runtime() const override { return DEPLOYKIT_RUNTIME; }

  void load(const std::string& path, int threads) override {
    et::runtime_init();
    const_cast<et::PalImpl*>(et::get_pal_impl())->emit_log_message = keep_log;  // registering warns of the package's own
    executorch::extension::threadpool::get_threadpool()->_unsafe_reset_threadpool(static_cast<uint32_t>(threads));
    loader_ = std::make_unique<FileLoader>(path);
    auto program = et::Program::load(loader_.get(), et::Program::Verification::InternalConsistency);
    check(program.error(), "the file cannot be loaded");
    program_ = std::make_unique<et::Program>(std::move(*program));
    plan_memory();
    auto method = program_->load_method("forward", manager_.get());
    check(method.error(), "the file cannot be loaded");
    method_ = std::make_unique<et::Method>(std::move(*method));
  }

  void prepare(const std::vector<Input>& inputs) override {
    if (inputs.size() != method_->inputs_size()) {
      throw Error("the model takes " + std::to_string(method_->inputs_size()) + " inputs, not " +
                  std::to_string(inputs.size()));
    }
    for (const auto& input : inputs) tensors_.push_back(std::make_unique<InputTensor>(input));
    for (const auto& tensor : tensors_) values_.push_back(tensor->value());
    set_inputs();
  }

  void infer() override {
    set_inputs();  // each time: where inputs are planned in the arena, an inference writes over them
    check(method_->execute(), "the inference failed");
  }

  std::vector<Output> outputs() override {
    std::vector<Output> outputs;
    for (size_t i = 0; i < method_->outputs_size(); ++i) {
      const et::EValue& value = method_->get_output(i);
      if (!value.isTensor()) throw Error("an output of the model is not a tensor");
      const Tensor& tensor = value.toTensor();
      for (size_t d = 0; d < tensor.dim_order().size(); ++d) {
        if (tensor.dim_order()[d] != d) throw Error("an output of the model is not in C order");
      }
      const std::vector<int64_t> shape(tensor.sizes().begin(), tensor.sizes().end());
      outputs.push_back({type_name(tensor.scalar_type()), shape, tensor.const_data_ptr(), tensor.nbytes()});
    }
    return outputs;
  }

 private:
  void plan_memory() {
    auto meta = program_->method_meta("forward");
    check(meta.error(), "the file has no method 'forward'");
    for (size_t i = 0; i < meta->num_memory_planned_buffers(); ++i) {
      const auto size = meta->memory_planned_buffer_size(i);
      check(size.error(), "the file cannot be loaded");
      planned_.emplace_back(allocate(static_cast<size_t>(*size)));
      spans_.emplace_back(reinterpret_cast<uint8_t*>(planned_.back().get()), static_cast<size_t>(*size));
    }
    arena_ = std::make_unique<et::HierarchicalAllocator>(et::Span<et::Span<uint8_t>>(spans_.data(), spans_.size()));
    manager_ = std::make_unique<et::MemoryManager>(&heap_, arena_.get(), &temporary_);
  }

  void set_inputs() {
    for (size_t i = 0; i < values_.size(); ++i) {
      check(method_->set_input(values_[i], i), "input " + std::to_string(i) + " does not suit the model");
    }
  }

  std::unique_ptr<FileLoader> loader_;
  std::unique_ptr<et::Program> program_;
  std::vector<Memory> planned_;
  std::vector<et::Span<uint8_t>> spans_;
  std::unique_ptr<et::HierarchicalAllocator> arena_;
  Heap heap_;
  Heap temporary_;
  std::unique_ptr<et::MemoryManager> manager_;
  std::unique_ptr<et::Method> method_;
  std::vector<std::unique_ptr<InputTensor>> tensors_;
  std::vector<et::EValue> values_;
};

}  // namespace
}  // namespace deploykit

int main(int argc, char** argv) {
  deploykit::Executorch engine;
  return deploykit::run(argc, argv, engine);
}
