#include "self_test.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "board.h"
#include "golden_vectors.h"
#include "image_sink.h"
#include "model_runner.h"

namespace mirnet {

Status SelfTest() {
  std::memcpy(model_runner::Input(), kGoldenInput, kInputSize);
  const std::uint32_t start = board::Micros();
  const Status status = model_runner::Run();
  const std::uint32_t micros = board::Micros() - start;
  if (status != Status::kOk) {
    return status;
  }
  int differing = 0, largest = 0;
  for (std::size_t i = 0; i < kOutputSize; ++i) {
    const int difference =
        std::abs(model_runner::Output()[i] - kGoldenOutput[i]);
    differing += difference != 0;
    largest = difference > largest ? difference : largest;
  }
  sink::SendText(Message::kSelfTestText,
                 "self-test=%s model=%s differing=%d of=%lu largest=%d us=%lu "
                 "arena=%lu",
                 differing == 0 ? "passed" : "failed", kModelSha256, differing,
                 static_cast<unsigned long>(kOutputSize), largest,
                 static_cast<unsigned long>(micros),
                 static_cast<unsigned long>(model_runner::ArenaUsed()));
  return differing == 0 ? Status::kOk : Status::kSelfTest;
}

}  // namespace mirnet
