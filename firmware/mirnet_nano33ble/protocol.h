// The framing of the serial protocol in PROTOCOL.md: how messages are written
// and how they are found in a stream of bytes. commands.h and image_sink.h know
// what they mean.
#ifndef MIRNET_PROTOCOL_H_
#define MIRNET_PROTOCOL_H_

#include <cstddef>
#include <cstdint>

namespace mirnet {

constexpr std::uint8_t kProtocolVersion = 2;
constexpr std::uint8_t kMagic[2] = {0xA5, 0x4D};
constexpr std::size_t kHeaderSize =
    12;  // magic, version, type, tag, length, CRC
constexpr std::size_t kCrcSize = 4;
constexpr std::size_t kMaxPayload = (std::size_t{1} << 24) - 1;

// CRC-32 of zlib and PNG. `crc` is 0 at the start, then the CRC of the bytes so
// far.
std::uint32_t Crc32(std::uint32_t crc, const std::uint8_t* data,
                    std::size_t size);

void PutU32(std::uint8_t* bytes, std::uint32_t value);  // little endian
std::uint32_t GetU32(const std::uint8_t* bytes);

// Writes the header of a message: kHeaderSize bytes, length <= kMaxPayload.
void PutHeader(std::uint8_t* header, std::uint8_t type, std::uint8_t tag,
               std::size_t length);

// Finds messages in a stream of bytes of which any may be missing, wrong or
// extra. It keeps one header and one payload, no more. After garbage it finds
// the next whole message, mostly at once, at the latest when as many bytes have
// passed as the buffer holds.
class Decoder {
 public:
  enum class Event : std::uint8_t {
    kNone,     // more bytes are needed
    kMessage,  // type(), tag(), payload() and length() are those of a message
    kWrongVersion,  // a header of another version; type() and tag() are valid
    kTooLong,  // a payload longer than the buffer; type() and tag() are valid
    kDamaged,  // a message whose CRC is wrong; type() and tag() are valid
  };

  // Payloads of up to `capacity` bytes are written to `buffer`, which others
  // may use while idle() is true.
  Decoder(std::uint8_t* buffer, std::size_t capacity);

  // Takes bytes, up to the first event. Returns how many it has taken.
  std::size_t Push(const std::uint8_t* data, std::size_t size, Event* event);

  // Drops a half received message. Call it when the rest does not come.
  void Reset();

  // Whether a message has begun and is not whole yet.
  bool receiving() const { return received_ > 0; }

  // Whether no payload is being written to the buffer. If it is false, type()
  // and tag() are valid.
  bool idle() const { return received_ < kHeaderSize; }

  std::uint8_t type() const { return header_[3]; }
  std::uint8_t tag() const { return header_[4]; }
  const std::uint8_t* payload() const { return buffer_; }
  std::size_t length() const { return length_; }

 private:
  Event PushHeader(std::uint8_t byte);
  Event PushCrc(std::uint8_t byte);

  std::uint8_t* buffer_;
  std::size_t capacity_;
  std::uint8_t header_[kHeaderSize] = {};
  std::uint8_t crc_[kCrcSize] = {};
  std::size_t received_ = 0;  // bytes of the current message
  std::size_t length_ = 0;    // of its payload
};

}  // namespace mirnet

#endif  // MIRNET_PROTOCOL_H_
