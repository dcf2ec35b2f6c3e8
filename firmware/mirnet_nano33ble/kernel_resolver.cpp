#include "kernel_resolver.h"

#include "kernels.h"
#include "tensorflow/lite/micro/kernels/conv.h"
#include "tensorflow/lite/micro/kernels/kernel_util.h"
#include "tensorflow/lite/micro/kernels/micro_ops.h"
#include "tensorflow/lite/micro/kernels/mul.h"

namespace mirnet {
namespace {

// A tensor of an operator that runs.
class Tensor {
 public:
  explicit Tensor(const TfLiteEvalTensor* tensor) : tensor_(tensor) {}

  bool is_codes() const {
    return tensor_ != nullptr && tensor_->type == kTfLiteInt8;
  }
  bool is_map() const {
    return is_codes() && tensor_->dims->size == 4 && side(0) == 1;
  }
  int side(int axis) const { return tensor_->dims->data[axis]; }
  int size() const { return Product(0, tensor_->dims->size); }
  int Product(int first, int last) const {
    int product = 1;
    for (int axis = first; axis < last; ++axis) {
      product *= side(axis);
    }
    return product;
  }
  const std::int8_t* codes() const { return tensor_->data.int8; }
  const TfLiteEvalTensor* operator->() const { return tensor_; }

 private:
  const TfLiteEvalTensor* tensor_;
};

Tensor Input(TfLiteContext* context, const TfLiteNode* node, int index) {
  return Tensor(tflite::micro::GetEvalInput(context, node, index));
}

TfLiteEvalTensor* Output(TfLiteContext* context, const TfLiteNode* node) {
  return tflite::micro::GetEvalOutput(context, node, 0);
}

bool Convolve(TfLiteContext* context, TfLiteNode* node) {
  const auto& options =
      *static_cast<const TfLiteConvParams*>(node->builtin_data);
  // The library's own struct begins with this one.
  const auto& data = *static_cast<const tflite::OpDataConv*>(node->user_data);
  const Tensor input = Input(context, node, 0),
               filters = Input(context, node, 1);
  const Tensor output(Output(context, node));
  if (!input.is_map() || !filters.is_codes() || !output.is_map() ||
      input.side(3) != filters.side(3) || options.dilation_width_factor != 1 ||
      options.dilation_height_factor != 1) {
    return false;
  }
  const TfLiteEvalTensor* bias =
      node->inputs->size > 2 ? Input(context, node, 2).operator->() : nullptr;
  const kernels::Convolution convolution = {
      input.side(1),
      input.side(2),
      input.side(3),
      output.side(1),
      output.side(2),
      output.side(3),
      filters.side(1),
      filters.side(2),
      options.stride_height,
      options.stride_width,
      data.padding.height,
      data.padding.width,
      -data.input_zero_point,
      {data.output_zero_point, data.output_activation_min,
       data.output_activation_max},
      data.per_channel_output_multiplier,
      data.per_channel_output_shift};
  return kernels::Convolve(convolution, input.codes(), filters.codes(),
                           bias == nullptr ? nullptr : bias->data.i32,
                           Output(context, node)->data.int8);
}

bool Add(TfLiteContext* context, TfLiteNode* node) {
  // The library's kernel has a struct of its own with the same members.
  const auto& data = *static_cast<const tflite::OpDataAdd*>(node->user_data);
  const Tensor a = Input(context, node, 0), b = Input(context, node, 1);
  const Tensor output(Output(context, node));
  if (!a.is_codes() || !b.is_codes() || !output.is_codes() ||
      data.requires_broadcast || a.size() != output.size() ||
      b.size() != output.size()) {
    return false;
  }
  const kernels::Addition addition = {
      data.input1_offset,
      data.input2_offset,
      data.left_shift,
      {data.input1_multiplier, data.input1_shift},
      {data.input2_multiplier, data.input2_shift},
      {data.output_multiplier, data.output_shift},
      {data.output_offset, data.output_activation_min,
       data.output_activation_max}};
  return kernels::Add(addition, a.codes(), b.codes(), output.size(),
                      Output(context, node)->data.int8);
}

// Whether the first axes of `b` are as those of `a` and the others, from axis
// `last` on, are 1.
bool RepeatsColumns(const Tensor& a, const Tensor& b, int last) {
  for (int axis = 0; axis < a->dims->size; ++axis) {
    if (b.side(axis) != (axis < last ? a.side(axis) : 1)) {
      return false;
    }
  }
  return true;
}

// Whether the last axes of `b` are as those of `a` and the others are 1 or
// missing.
bool RepeatsRows(const Tensor& a, const Tensor& b) {
  const int missing = a->dims->size - b->dims->size;
  bool ones = false;
  for (int axis = a->dims->size - 1; axis >= missing; --axis) {
    const int side = b.side(axis - missing);
    ones = ones || side != a.side(axis);
    if (ones && side != 1) {
      return false;
    }
  }
  return true;
}

bool Multiply(TfLiteContext* context, TfLiteNode* node) {
  const auto& data = *static_cast<const tflite::OpDataMul*>(node->user_data);
  Tensor a = Input(context, node, 0), b = Input(context, node, 1);
  const Tensor output(Output(context, node));
  if (!a.is_codes() || !b.is_codes() || !output.is_codes()) {
    return false;
  }
  const bool swap = a.size() < b.size();
  kernels::Multiplication by = {
      -data.input1_zero_point,
      -data.input2_zero_point,
      {data.output_multiplier, data.output_shift},
      {data.output_zero_point, data.output_activation_min,
       data.output_activation_max}};
  if (swap) {
    const Tensor other = a;
    a = b;
    b = other;
    by.offset_a = -data.input2_zero_point;
    by.offset_b = -data.input1_zero_point;
  }
  const int size = a.size(), parts = b.size();
  std::int8_t* const to = Output(context, node)->data.int8;
  if (size != output.size() || parts == 0 || a->dims->size < b->dims->size) {
    return false;
  }
  if (RepeatsRows(a, b)) {
    return kernels::MultiplyByRow(by, a.codes(), b.codes(), size / parts, parts,
                                  to);
  }
  const int last = a->dims->size - 1;
  return a->dims->size == b->dims->size && RepeatsColumns(a, b, last) &&
         kernels::MultiplyByColumn(by, a.codes(), b.codes(), parts,
                                   size / parts, to);
}

bool Resize(TfLiteContext* context, TfLiteNode* node) {
  const auto& options =
      *static_cast<const TfLiteResizeBilinearParams*>(node->builtin_data);
  const Tensor input = Input(context, node, 0);
  const Tensor output(Output(context, node));
  return input.is_map() && output.is_map() && options.half_pixel_centers &&
         !options.align_corners && output.side(1) == 2 * input.side(1) &&
         output.side(2) == 2 * input.side(2) &&
         kernels::ResizeTwice(input.codes(), input.side(1), input.side(2),
                              input.side(3), Output(context, node)->data.int8);
}

template <Registration (*kLibrary)(),
          bool (*kKernel)(TfLiteContext*, TfLiteNode*)>
TfLiteStatus Invoke(TfLiteContext* context, TfLiteNode* node) {
  return kKernel(context, node) ? kTfLiteOk : kLibrary().invoke(context, node);
}

struct Kernel {
  tflite::BuiltinOperator code;
  TfLiteStatus (*invoke)(TfLiteContext*, TfLiteNode*);
};
constexpr Kernel kKernels[] = {
    {tflite::BuiltinOperator_ADD, Invoke<tflite::Register_ADD, Add>},
    {tflite::BuiltinOperator_CONV_2D,
     Invoke<tflite::Register_CONV_2D, Convolve>},
    {tflite::BuiltinOperator_MUL, Invoke<tflite::Register_MUL, Multiply>},
    {tflite::BuiltinOperator_RESIZE_BILINEAR,
     Invoke<tflite::Register_RESIZE_BILINEAR, Resize>},
};
constexpr int kCount = sizeof kKernels / sizeof *kKernels;
Registration registrations[kCount];

}  // namespace

const Registration* WithKernel(const Registration* library) {
  for (int i = 0; library != nullptr && i < kCount; ++i) {
    if (library->builtin_code == kKernels[i].code) {
      registrations[i] = *library;
      registrations[i].invoke = kKernels[i].invoke;
      return &registrations[i];
    }
  }
  return library;
}

}  // namespace mirnet
