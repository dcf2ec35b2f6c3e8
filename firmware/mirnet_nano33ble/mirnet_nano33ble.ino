// MIRNet on an Arduino Nano 33 BLE Sense: a dark frame in, a bright frame out.
//
// A dark frame comes from the OV7675 camera of the TinyML kit or from the
// computer. The int8 model predicts maps of gains and offsets from it, the maps
// make it bright, and both frames go to the computer, where firmware/viewer
// shows them. With a display (settings.h) the board also works alone.

#include "board.h"
#include "commands.h"
#include "frame_format.h"
#include "image_sink.h"
#include "image_source.h"
#include "model_runner.h"
#include "pixels.h"
#include "self_test.h"
#include "settings.h"
#include "status.h"
#include "viewfinder.h"

static std::uint8_t frame[mirnet::kFrameSize];  // dark, as it came
static std::uint8_t row[mirnet::kRowSize];      // of the bright frame
static mirnet::Commands commands(frame);
static mirnet::Viewfinder viewfinder;  // commands without a computer
static mirnet::Status camera;
static int missed = 0;    // frames that the camera did not send, in a row
static int darkest = -1;  // luminance of the camera's last frame
static std::uint32_t number = 0;  // of the frame

// An interrupt, every 20 milliseconds.
static void Tick() {
  mirnet::UpdateLeds();
  viewfinder.button().Sample(mirnet::board::ButtonClosed());
}

void setup() {
  mirnet::board::Begin(Tick);
  mirnet::ShowBusy(true);
  mirnet::sink::Begin();
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

// Reads the frames of a picture and makes one of them. Returns false if more
// must come first.
static bool ReadPicture(mirnet::Source source, mirnet::Average* average,
                        mirnet::Status* status) {
  const bool from_camera = source == mirnet::Source::kCamera;
  // A single frame may be missing; then the camera has lost its settings.
  if (from_camera && (camera == mirnet::Status::kNoCamera || missed > 1)) {
    camera = mirnet::BeginCamera();
  }
  bool whole;
  do {
    *status = mirnet::ReadFrame(source, frame);
    if (from_camera) {
      camera = *status;
      missed = *status == mirnet::Status::kOk ? 0 : missed + 1;
    }
    if (*status != mirnet::Status::kOk) {
      average->Restart();
      return false;
    }
    if (from_camera) {
      darkest = mirnet::DarkestOf(frame, mirnet::kFrameSize / 2);
    }
    whole = average->Add(source, frame, mirnet::model_runner::Input());
  } while (!whole && source != mirnet::Source::kComputer);
  return whole;
}

void loop() {
  // The computer commands; without one the button does, if there is a display.
  mirnet::Source source = commands.Next(camera, darkest);
  mirnet::Average* average = &commands.average();
  if (!commands.alone()) {
    viewfinder.Restart();
  } else if (mirnet::kHasDisplay) {
    source = viewfinder.Next();
    average = &viewfinder.average();
  }
  if (source == mirnet::Source::kNone) {
    if (!commands.receiving()) {
      mirnet::board::Wait(1);  // the processor sleeps
    }
    return;
  }
  mirnet::ShowBusy(true);

  // Read the dark frame, or several and their mean, and send it.
  std::uint32_t start = mirnet::board::Micros();
  mirnet::Status status;
  if (!ReadPicture(source, average, &status)) {
    if (status == mirnet::Status::kOk) {
      mirnet::sink::SendStatus(status);  // the next one may come
    }
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

  // Restore it row by row, for the computer and the display: there is no memory
  // for a whole bright frame.
  mirnet::sink::BeginBright(number, mirnet::board::Micros() - start);
  for (int y = 0; y < mirnet::kImageHeight; ++y) {
    mirnet::RestoreRow(frame, maps, y, commands.exposure(), row);
    mirnet::sink::SendRow(row);
  }
  mirnet::sink::EndBright();
  viewfinder.Shown();
  ++number;
  mirnet::ShowBusy(false);
}
