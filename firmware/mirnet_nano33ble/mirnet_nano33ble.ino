// MIRNet on an Arduino Nano 33 BLE Sense: a dark frame in, a bright frame out.
//
// A frame of 160x120 pixels comes from the OV7675 of the TinyML kit or from the
// computer; the int8 model makes maps of it; they make it bright; both frames
// go to the computer, where firmware/viewer shows them.

#include "board.h"
#include "commands.h"
#include "enhancer.h"
#include "image_sink.h"
#include "image_source.h"
#include "pixels.h"
#include "self_test.h"
#include "status.h"

static std::uint8_t frame[mirnet::kFrameSize];
static mirnet::Commands commands(frame);
static mirnet::Status camera;
static std::uint32_t number = 0;

void setup() {
  mirnet::board::Begin();
  mirnet::Report(mirnet::enhancer::Begin());
  mirnet::Report(mirnet::SelfTest());
  camera = mirnet::BeginCamera();
  mirnet::Report(camera);
}

void loop() {
  mirnet::UpdateLamps();
  const mirnet::Source source = commands.Next(camera);
  if (source == mirnet::Source::kNone) {
    return;
  }
  mirnet::ShowBusy(true);
  std::uint32_t start = mirnet::board::Micros();
  const mirnet::Status status = mirnet::ReadFrame(source, frame);
  if (status == mirnet::Status::kOk) {
    mirnet::sink::SendDark(number, mirnet::board::Micros() - start, frame);

    start = mirnet::board::Micros();
    mirnet::FillInput(frame, mirnet::enhancer::Input());
    mirnet::Report(mirnet::enhancer::Run());
    mirnet::sink::SendBright(number, mirnet::board::Micros() - start, frame,
                             mirnet::enhancer::Output());
    ++number;
  } else {
    commands.Stop();
    mirnet::Report(status);
  }
  mirnet::ShowBusy(false);
}
