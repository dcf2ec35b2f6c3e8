#include "protocol.h"

#include <algorithm>
#include <cstring>

namespace mirnet {
namespace {

// One entry for each value of 4 bits; a table for 8 bits would take 1 KB.
constexpr std::uint32_t kCrcTable[16] = {
    0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4,
    0x4db26158, 0x5005713c, 0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
    0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c};

constexpr std::size_t kHeaderCrcAt = kHeaderSize - kCrcSize;

}  // namespace

std::uint32_t Crc32(std::uint32_t crc, const std::uint8_t* data,
                    std::size_t size) {
  crc = ~crc;
  for (std::size_t i = 0; i < size; ++i) {
    crc ^= data[i];
    crc = (crc >> 4) ^ kCrcTable[crc & 15];
    crc = (crc >> 4) ^ kCrcTable[crc & 15];
  }
  return ~crc;
}

void PutU32(std::uint8_t* bytes, std::uint32_t value) {
  for (int i = 0; i < 4; ++i) {
    bytes[i] = static_cast<std::uint8_t>(value >> (8 * i));
  }
}

std::uint32_t GetU32(const std::uint8_t* bytes) {
  std::uint32_t value = 0;
  for (int i = 3; i >= 0; --i) {
    value = value << 8 | bytes[i];
  }
  return value;
}

void PutHeader(std::uint8_t* header, std::uint8_t type, std::uint8_t tag,
               std::size_t length) {
  header[0] = kMagic[0];
  header[1] = kMagic[1];
  header[2] = kProtocolVersion;
  header[3] = type;
  header[4] = tag;
  for (int i = 0; i < 3; ++i) {
    header[5 + i] = static_cast<std::uint8_t>(length >> (8 * i));
  }
  PutU32(header + kHeaderCrcAt, Crc32(0, header, kHeaderCrcAt));
}

Decoder::Decoder(std::uint8_t* buffer, std::size_t capacity)
    : buffer_(buffer), capacity_(capacity) {}

void Decoder::Reset() { received_ = 0; }

std::size_t Decoder::Push(const std::uint8_t* data, std::size_t size,
                          Event* event) {
  *event = Event::kNone;
  std::size_t used = 0;
  while (used < size && *event == Event::kNone) {
    if (received_ < kHeaderSize) {
      *event = PushHeader(data[used++]);
      continue;
    }
    const std::size_t at = received_ - kHeaderSize;
    if (at < length_) {
      const std::size_t count = std::min(size - used, length_ - at);
      std::memcpy(buffer_ + at, data + used, count);
      received_ += count;
      used += count;
      continue;
    }
    *event = PushCrc(data[used++]);
  }
  return used;
}

Decoder::Event Decoder::PushCrc(std::uint8_t byte) {
  const std::size_t at = received_++ - kHeaderSize - length_;
  crc_[at] = byte;
  if (at + 1 < kCrcSize) {
    return Event::kNone;
  }
  Reset();
  const std::uint32_t crc =
      Crc32(Crc32(0, header_, kHeaderSize), buffer_, length_);
  return crc == GetU32(crc_) ? Event::kMessage : Event::kDamaged;
}

Decoder::Event Decoder::PushHeader(std::uint8_t byte) {
  header_[received_++] = byte;
  while (received_ > 0) {
    if (header_[0] == kMagic[0] && (received_ < 2 || header_[1] == kMagic[1])) {
      if (received_ < kHeaderSize) {
        return Event::kNone;
      }
      if (Crc32(0, header_, kHeaderCrcAt) == GetU32(header_ + kHeaderCrcAt)) {
        break;
      }
    }
    // No header starts at the first byte; try the next.
    --received_;
    std::memmove(header_, header_ + 1, received_);
  }
  if (received_ == 0) {
    return Event::kNone;
  }
  length_ = header_[5] | static_cast<std::size_t>(header_[6]) << 8 |
            static_cast<std::size_t>(header_[7]) << 16;
  if (header_[2] == kProtocolVersion && length_ <= capacity_) {
    return Event::kNone;
  }
  Reset();
  return header_[2] != kProtocolVersion ? Event::kWrongVersion
                                        : Event::kTooLong;
}

}  // namespace mirnet
