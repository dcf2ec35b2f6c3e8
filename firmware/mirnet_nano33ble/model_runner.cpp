#include "model_runner.h"

#include <TensorFlowLite.h>

#include "kernel_resolver.h"
#include "memory_budget.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/schema/schema_generated.h"

namespace mirnet {
namespace model_runner {
namespace {

alignas(16) std::uint8_t arena[kArenaBytes];
tflite::MicroInterpreter* interpreter = nullptr;

bool IsAsDescribed(const TfLiteTensor* tensor, std::size_t size, float scale,
                   int zero_point) {
  return tensor != nullptr && tensor->type == kTfLiteInt8 &&
         tensor->bytes == size && tensor->params.zero_point == zero_point &&
         !(tensor->params.scale < scale) && !(tensor->params.scale > scale);
}

}  // namespace

Status Begin() {
  const tflite::Model* model = tflite::GetModel(kModelData);
  if (model->version() != TFLITE_SCHEMA_VERSION) {
    return Status::kModelVersion;
  }
  static KernelResolver<kOperatorCount> resolver;
  if (RegisterOperators(&resolver) != 0) {
    return Status::kOperators;
  }
  static tflite::MicroInterpreter only(model, resolver, arena, sizeof arena);
  if (only.AllocateTensors() != kTfLiteOk) {
    return Status::kArena;
  }
  if (only.inputs_size() != 1 || only.outputs_size() != 1 ||
      !IsAsDescribed(only.input(0), kInputSize, kInputScale, kInputZeroPoint) ||
      !IsAsDescribed(only.output(0), kOutputSize, kOutputScale,
                     kOutputZeroPoint)) {
    return Status::kTensors;
  }
  interpreter = &only;
  return Status::kOk;
}

std::int8_t* Input() { return interpreter->input(0)->data.int8; }

Status Run() {
  return interpreter->Invoke() == kTfLiteOk ? Status::kOk : Status::kInvoke;
}

const std::int8_t* Output() { return interpreter->output(0)->data.int8; }

std::size_t ArenaUsed() { return interpreter->arena_used_bytes(); }

}  // namespace model_runner
}  // namespace mirnet
