// Runs a model on the emulated Cortex-M4 and counts the instructions of every
// operator. Reads "model" and "in", the bytes of all its inputs; writes "out",
// the bytes of all its outputs, and "counts": one Count for the memory that the
// interpreter takes of its arena, one for the whole of Invoke(), then one for
// each operator in the order in which they ran. The kernels are the library's,
// or those of the sketch where there is a file "sketch_kernels".
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernel_resolver.h"
#include "start.h"
#include "tensorflow/lite/micro/debug_log.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/micro/micro_profiler.h"
#include "tensorflow/lite/schema/schema_generated.h"

extern "C" void DebugLog(const char* text) { Print(text); }

namespace {

enum Status { kDone, kFiles, kTooLarge, kRefused, kNoOutput };

constexpr std::size_t kModelBytes = 6 << 20, kArenaBytes = 9 << 20;
alignas(16) __attribute__((section(".psram"))) std::uint8_t model[kModelBytes];
alignas(16) __attribute__((section(".psram"))) std::uint8_t arena[kArenaBytes];

struct Count {
  char name[28];
  std::uint32_t value;
};
constexpr std::size_t kMost = 4096;
__attribute__((section(".psram"))) Count counts[2 + kMost];

void Set(Count& count, const char* name, std::uint64_t value) {
  std::strncpy(count.name, name, sizeof count.name - 1);
  count.value = static_cast<std::uint32_t>(value);
}

// The interpreter says when an operator begins and ends. What these calls cost
// themselves is measured once, with nothing between them, and taken off.
class Profiler : public tflite::MicroProfilerInterface {
 public:
  std::uint32_t BeginEvent(const char* name) override {
    names_[used_] = name;
    start_ = Instructions();
    return 0;
  }
  void EndEvent(std::uint32_t) override {
    values_[used_] = Instructions() - start_ - overhead_;
    if (used_ < kMost) {
      ++used_;
    }
  }
  void Calibrate() {
    // Volatile, so that the calls are virtual ones as in the interpreter.
    tflite::MicroProfilerInterface* volatile profiler = this;
    const std::uint64_t start = Instructions();
    {
      tflite::ScopedMicroProfiler nothing("nothing", profiler);
    }
    const std::uint64_t end = Instructions();
    event_ = end - start - (Instructions() - end);
    overhead_ = values_[0];
    used_ = 0;
  }
  std::size_t used() const { return used_; }
  const char* name(std::size_t i) const { return names_[i]; }
  std::uint64_t value(std::size_t i) const { return values_[i]; }
  // What watching the operators took of the whole.
  std::uint64_t cost() const { return used_ * event_; }

 private:
  const char* names_[kMost + 1];
  std::uint64_t values_[kMost + 1];
  std::uint64_t start_ = 0, overhead_ = 0, event_ = 0;
  std::size_t used_ = 0;
};

bool Load(const char* name, std::uint8_t* data, std::size_t most) {
  const int file = OpenFile(name, 0);
  const std::size_t size = FileSize(file);
  return size <= most && ReadFile(file, data, size);
}

// All that cost.py predicts, and the most usual others.
using Resolver = mirnet::KernelResolver<32>;
void Register(Resolver::Base* resolver) {
  resolver->AddAdd();
  resolver->AddAveragePool2D();
  resolver->AddConcatenation();
  resolver->AddConv2D();
  resolver->AddDepthToSpace();
  resolver->AddDepthwiseConv2D();
  resolver->AddFullyConnected();
  resolver->AddHardSwish();
  resolver->AddLeakyRelu();
  resolver->AddLogistic();
  resolver->AddMaxPool2D();
  resolver->AddMaximum();
  resolver->AddMean();
  resolver->AddMinimum();
  resolver->AddMirrorPad();
  resolver->AddMul();
  resolver->AddPad();
  resolver->AddPadV2();
  resolver->AddPrelu();
  resolver->AddQuantize();
  resolver->AddReduceMax();
  resolver->AddRelu();
  resolver->AddRelu6();
  resolver->AddReshape();
  resolver->AddResizeBilinear();
  resolver->AddResizeNearestNeighbor();
  resolver->AddSoftmax();
  resolver->AddSpaceToDepth();
  resolver->AddSub();
  resolver->AddSum();
  resolver->AddTanh();
  resolver->AddTransposeConv();
}

int Run() {
  Profiler profiler;
  Resolver::Base library;
  Resolver sketch;
  Resolver::Base* const resolver =
      OpenFile("sketch_kernels", 0) < 0 ? &library : &sketch;
  Register(resolver);
  std::memset(counts, 0, sizeof counts);
  if (!Load("model", model, sizeof model)) {
    return kTooLarge;
  }
  tflite::MicroInterpreter interpreter(tflite::GetModel(model), *resolver,
                                       arena, sizeof arena, nullptr, &profiler);
  if (interpreter.AllocateTensors() != kTfLiteOk) {
    return kRefused;
  }
  const int in = OpenFile("in", 0);
  for (std::size_t i = 0; i < interpreter.inputs_size(); ++i) {
    TfLiteTensor* tensor = interpreter.input(i);
    if (!ReadFile(in, tensor->data.raw, tensor->bytes)) {
      return kFiles;
    }
  }
  profiler.Calibrate();
  const std::uint64_t start = Instructions();
  if (interpreter.Invoke() != kTfLiteOk) {
    return kRefused;
  }
  const std::uint64_t taken = Instructions() - start;
  if (profiler.used() == kMost) {
    return kTooLarge;
  }
  Set(counts[0], "arena", interpreter.arena_used_bytes());
  Set(counts[1], "Invoke()", taken - profiler.cost());
  for (std::size_t i = 0; i < profiler.used(); ++i) {
    Set(counts[2 + i], profiler.name(i), profiler.value(i));
  }
  const int out = OpenFile("out", 1), report = OpenFile("counts", 1);
  for (std::size_t i = 0; i < interpreter.outputs_size(); ++i) {
    const TfLiteTensor* tensor = interpreter.output(i);
    if (!WriteFile(out, tensor->data.raw, tensor->bytes)) {
      return kNoOutput;
    }
  }
  return WriteFile(report, counts, sizeof(Count) * (2 + profiler.used()))
             ? kDone
             : kNoOutput;
}

}  // namespace

int main() { return Run(); }
