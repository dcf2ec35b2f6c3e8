// Lets the library's interpreter use the kernels of kernels.h: an operator's
// Init and Prepare stay those of the library, Invoke is ours, and calls the
// library's for what ours does not cover.
#ifndef MIRNET_KERNEL_RESOLVER_H_
#define MIRNET_KERNEL_RESOLVER_H_

#if __has_include(<Arduino.h>)
#include <TensorFlowLite.h>  // from which Arduino knows the library
#endif

#include "tensorflow/lite/micro/kernels/add.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"

namespace mirnet {

// TfLiteRegistration, whatever the library calls it.
using Registration = decltype(tflite::Register_ADD());

// Returns the library's registration with our Invoke, or as it is if there is
// no kernel for the operator.
const Registration* WithKernel(const Registration* library);

// A MicroMutableOpResolver whose operators use our kernels.
template <unsigned int kOperators>
class KernelResolver : public tflite::MicroMutableOpResolver<kOperators> {
 public:
  using Base = tflite::MicroMutableOpResolver<kOperators>;
  using Base::FindOp;
  const Registration* FindOp(tflite::BuiltinOperator code) const override {
    return WithKernel(Base::FindOp(code));
  }
};

}  // namespace mirnet

#endif  // MIRNET_KERNEL_RESOLVER_H_
