#include "image_sink.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "board.h"
#include "display.h"

namespace mirnet {
namespace sink {
namespace {

char text[kTextSize];
std::uint8_t current_tag = 0;
std::uint32_t crc = 0;  // of the message's bytes so far
bool delivered = true;  // all of the message's bytes so far

void Send(const void* data, std::size_t size) {
  const auto* bytes = static_cast<const std::uint8_t*>(data);
  crc = Crc32(crc, bytes, size);
  delivered = delivered && board::Write(bytes, size);
}

void SendNumber(std::uint32_t value) {
  std::uint8_t bytes[4];
  PutU32(bytes, value);
  Send(bytes, sizeof bytes);
}

void Begin(Message type, std::size_t length) {
  std::uint8_t header[kHeaderSize];
  PutHeader(header, static_cast<std::uint8_t>(type), current_tag, length);
  crc = 0;
  delivered = true;
  Send(header, sizeof header);
}

void End() { SendNumber(crc); }

}  // namespace

void Begin() { display::Begin(); }

void Answer(std::uint8_t tag) { current_tag = tag; }

void SendStatus(Status status) {
  const char* description = Describe(status);
  const std::size_t length = std::strlen(description);
  const auto code = static_cast<std::uint8_t>(status);
  Begin(Message::kStatus, 1 + length);
  Send(&code, 1);
  Send(description, length);
  End();
}

void SendText(Message type, const char* format, ...) {
  std::va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  const std::size_t length = std::strlen(text);
  Begin(type, length);
  Send(text, length);
  End();
}

void SendDark(std::uint32_t number, std::uint32_t micros,
              const std::uint8_t* frame) {
  Begin(Message::kDarkFrame, 8 + kFrameSize);
  SendNumber(number);
  SendNumber(micros);
  Send(frame, kFrameSize);
  End();
}

void BeginBright(std::uint32_t number, std::uint32_t micros) {
  Begin(Message::kBrightFrame, 8 + kRowSize * kImageHeight);
  SendNumber(number);
  SendNumber(micros);
  display::BeginPicture();
}

void SendRow(const std::uint8_t* row) {
  Send(row, kRowSize);
  display::ShowRow(row);
}

void EndBright() { End(); }

}  // namespace sink
}  // namespace mirnet
