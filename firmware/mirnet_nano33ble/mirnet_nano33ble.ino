// MIRNet on an Arduino Nano 33 BLE Sense: a dark frame in, a bright frame out.
//
// A dark frame comes from the OV7675 camera of the TinyML kit or from the
// computer. The int8 model predicts maps of gains and offsets from it, the maps
// make it bright, and both frames go to the computer, where firmware/viewer
// shows them.

#include "board.h"
#include "commands.h"
#include "image_sink.h"
#include "image_source.h"
#include "model_runner.h"
#include "pixels.h"
#include "self_test.h"
#include "status.h"

static std::uint8_t frame[mirnet::kFrameSize];  // dark, as it came
static std::uint8_t row[mirnet::kRowSize];      // of the bright frame
static mirnet::Commands commands(frame);
static mirnet::Status camera;
static std::uint32_t number = 0;  // of the frame

void setup() {
  mirnet::board::Begin(mirnet::UpdateLamps);
  mirnet::ShowBusy(true);
  mirnet::Status status = mirnet::model_runner::Begin();
  if (status == mirnet::Status::kOk) {
    status = mirnet::SelfTest();
  }
  if (status != mirnet::Status::kOk) {
    mirnet::Halt(status);
  }
  camera = mirnet::BeginCamera();
  mirnet::Report(camera);  // without a camera the computer can send frames
  mirnet::ShowBusy(false);
}

void loop() {
  const mirnet::Source source = commands.Next(camera);
  if (source == mirnet::Source::kNone) {
    if (!commands.receiving()) {
      mirnet::board::Wait(1);  // the processor sleeps
    }
    return;
  }
  mirnet::ShowBusy(true);

  // Read the dark frame and send it. A camera that was silent is started anew.
  const bool from_camera = source == mirnet::Source::kCamera;
  if (from_camera && camera != mirnet::Status::kOk) {
    camera = mirnet::BeginCamera();
  }
  std::uint32_t start = mirnet::board::Micros();
  mirnet::Status status = mirnet::ReadFrame(source, frame);
  if (from_camera) {
    camera = status;
  }
  if (status != mirnet::Status::kOk) {
    mirnet::Report(status);
    mirnet::ShowBusy(false);
    return;
  }
  mirnet::sink::SendDark(number, mirnet::board::Micros() - start, frame);

  // Run the model on it.
  start = mirnet::board::Micros();
  mirnet::FillInput(frame, mirnet::model_runner::Input());
  status = mirnet::model_runner::Run();
  if (status != mirnet::Status::kOk) {
    mirnet::Halt(status);
  }
  const std::int8_t* maps = mirnet::model_runner::Output();

  // Restore it row by row: there is no memory for a whole bright frame.
  mirnet::sink::BeginBright(number, mirnet::board::Micros() - start);
  for (int y = 0; y < mirnet::kImageHeight; ++y) {
    mirnet::RestoreRow(frame, maps, y, commands.exposure(), row);
    mirnet::sink::SendRow(row);
  }
  mirnet::sink::EndBright();
  ++number;
  mirnet::ShowBusy(false);
}
