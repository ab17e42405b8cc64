// What the runners share: the command line, the inputs, the measurement and the result.
//
//   RUNNER --model FILE --input FILE:DTYPE:1,3,224,224 [--input ...] --threads N --warmup N --iterations N
//          [--cores 4,5,6,7] [--outputs DIR] [--mark] --result FILE

#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace deploykit {

struct Input {
  std::string dtype;
  std::vector<int64_t> shape;
  std::vector<char> bytes;
};

// A view of what the last inference gave; it holds until the next one.
struct Output {
  std::string dtype;
  std::vector<int64_t> shape;
  const void* data;
  size_t size;
};

// What a user can mend; `main` prints it as `error: ...`.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Engine {
 public:
  virtual ~Engine() = default;

  virtual std::string name() const = 0;
  virtual std::string runtime() const = 0;

  // Read a model, and make ready for inferences on these inputs with this many threads.
  virtual void load(const std::string& path, int threads) = 0;
  virtual void prepare(const std::vector<Input>& inputs) = 0;

  // One inference, which is what is timed.
  virtual void infer() = 0;

  virtual std::vector<Output> outputs() = 0;
};

// The whole program; returns its exit code: 0, 1 for what failed, 2 for a mistake in the command line.
int run(int argc, char** argv, Engine& engine);

}  // namespace deploykit
