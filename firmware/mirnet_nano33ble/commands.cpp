#include "commands.h"

#include "board.h"
#include "image_sink.h"
#include "memory_budget.h"
#include "model_runner.h"
#include "self_test.h"

namespace mirnet {
namespace {

// After a pause of this length a message counts as incomplete.
constexpr std::uint32_t kPauseMillis = 500;

Status StatusOf(Decoder::Event event) {
  switch (event) {
    case Decoder::Event::kWrongVersion:
      return Status::kWrongVersion;
    case Decoder::Event::kTooLong:
      return Status::kBadCommand;
    case Decoder::Event::kDamaged:
      return Status::kDamaged;
    default:
      return Status::kOk;
  }
}

void SendInfo(Status camera, int darkest) {
  sink::SendText(Message::kInfoText,
                 "protocol=%u model=%s width=%d height=%d arena=%lu memory=%lu "
                 "flash=%lu camera=%u darkest=%d",
                 unsigned{kProtocolVersion}, kModelSha256, kImageWidth,
                 kImageHeight,
                 static_cast<unsigned long>(model_runner::ArenaUsed()),
                 static_cast<unsigned long>(kMemoryInUse),
                 static_cast<unsigned long>(kModelSize),
                 static_cast<unsigned>(camera), darkest);
}

}  // namespace

Commands::Commands(std::uint8_t* frame)
    : frame_(frame), decoder_(frame, kFrameSize) {}

Source Commands::Next(Status camera, int darkest) {
  bool arrived = false;
  alone_ = false;
  for (;;) {
    if (arrived_used_ == arrived_size_) {
      arrived_used_ = 0;
      arrived_size_ = board::Read(arrived_, sizeof arrived_);
      if (arrived_size_ == 0) {
        break;
      }
    }
    arrived = true;
    Decoder::Event event;
    arrived_used_ += decoder_.Push(arrived_ + arrived_used_,
                                   arrived_size_ - arrived_used_, &event);
    if (event == Decoder::Event::kNone) {
      continue;
    }
    sink::Answer(decoder_.tag());
    Report(StatusOf(event));
    if (event == Decoder::Event::kMessage) {
      const Source source = Obey(camera, darkest);
      if (source != Source::kNone) {
        return source;
      }
    }
  }
  if (!board::Connected()) {  // who began it is gone
    alone_ = true;
    sink::Answer(0);
    stream_ = Source::kNone;
    decoder_.Reset();
    average_.Begin(1);
    exposure_ = 0;
  }
  if (decoder_.receiving()) {
    const std::uint32_t now = board::Millis();
    if (arrived) {
      last_byte_at_ = now;
    } else if (now - last_byte_at_ > kPauseMillis) {
      sink::Answer(decoder_.idle() ? 0 : decoder_.tag());
      decoder_.Reset();
      Report(Status::kDamaged);
    }
  }
  if (stream_ == Source::kNone || !decoder_.idle()) {
    return Source::kNone;
  }
  sink::Answer(stream_tag_);
  return stream_;
}

Source Commands::Obey(Status camera, int darkest) {
  const std::size_t length = decoder_.length();
  switch (static_cast<Message>(decoder_.type())) {
    case Message::kInfo:
      if (length == 0) {
        SendInfo(camera, darkest);
        return Source::kNone;
      }
      break;
    case Message::kSelfTest:
      if (length == 0) {
        average_.Restart();
        const Status status = SelfTest();
        if (status != Status::kOk) {
          Halt(status);
        }
        return Source::kNone;
      }
      break;
    case Message::kCapture:
      if (length == 0) {
        return Source::kCamera;
      }
      break;
    case Message::kTestPicture:
      if (length == 0) {
        return Source::kTestPicture;
      }
      break;
    case Message::kEnhance:
      if (length == kFrameSize) {
        return Source::kComputer;
      }
      break;
    case Message::kStream:
      if (length == 1 && frame_[0] <= static_cast<int>(Source::kTestPicture)) {
        stream_ = static_cast<Source>(frame_[0]);
        stream_tag_ = decoder_.tag();
        sink::SendStatus(Status::kOk);
        return Source::kNone;
      }
      break;
    case Message::kExposure: {
      const int exposure = static_cast<std::int8_t>(frame_[0]);
      if (length == 1 && exposure >= -kLargestExposure &&
          exposure <= kLargestExposure) {
        exposure_ = exposure;
        sink::SendStatus(Status::kOk);
        return Source::kNone;
      }
      break;
    }
    case Message::kCamera: {
      CameraSettings settings;
      if (ParseCameraSettings(frame_, length, &settings)) {
        const Status status = SetCamera(settings);
        Report(status);
        if (status == Status::kOk) {
          sink::SendStatus(status);
        }
        return Source::kNone;
      }
      break;
    }
    case Message::kAverage:
      if (length == 1 && frame_[0] >= 1 && frame_[0] <= kMostFrames) {
        average_.Begin(frame_[0]);
        sink::SendStatus(Status::kOk);
        return Source::kNone;
      }
      break;
    default:
      break;
  }
  Report(Status::kBadCommand);
  return Source::kNone;
}

}  // namespace mirnet
