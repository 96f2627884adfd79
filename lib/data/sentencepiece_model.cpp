// The two files that hold a SentencePiece vocabulary: SentencePiece's own .model (a protobuf message, read and written
// by hand: five field numbers do not ask for a dependency) and llama2.c's tokenizer.bin.
#include <cmath>
#include <cstring>

#include "data/sentencepiece.h"
#include "tensor/error.h"
#include "tensor/printable.h"

namespace rw {
namespace {

constexpr std::string_view kMark = "\xE2\x96\x81";  // stands for a space

/// A protobuf message as a sequence of (field, value); every read is checked against the end.
class Message {
 public:
  Message(std::string_view bytes, const std::string& path) : bytes_(bytes), path_(path) {}

  struct Field {
    uint64_t number = 0;
    uint64_t integer = 0;    // varint and fixed-size fields
    std::string_view bytes;  // length-delimited fields
    int wire = 0;
    float real() const {
      const uint32_t bits = static_cast<uint32_t>(integer);
      float value;
      std::memcpy(&value, &bits, 4);
      return value;
    }
  };

  bool next(Field& field) {
    if (at_ == bytes_.size()) return false;
    const uint64_t key = varint();
    field = {key >> 3, 0, {}, static_cast<int>(key & 7)};
    switch (field.wire) {
      case 0:
        field.integer = varint();
        break;
      case 1:
        field.integer = fixed(8);
        break;
      case 2:
        field.bytes = take(varint());
        break;
      case 5:
        field.integer = fixed(4);
        break;
      default:
        garbled();
    }
    if (field.number == 0) garbled();
    return true;
  }
  /// Errors: the field is of another wire type than this file format gives it.
  static void expect(const Field& field, int wire, const std::string& path) {
    check(field.wire == wire, "tokenizer", path, ": field ", field.number, " has wire type ", field.wire, ", expected ",
          wire, ": this is not a SentencePiece model");
  }

 private:
  [[noreturn]] void garbled() const {
    fail("tokenizer", path_, ": garbled at byte ", at_, " of ", bytes_.size(), " of a message");
  }
  std::string_view take(uint64_t n) {
    check(n <= bytes_.size() - at_, "tokenizer", path_, ": truncated: ", n, " bytes expected, ", bytes_.size() - at_,
          " left");
    const std::string_view part = bytes_.substr(at_, n);
    at_ += n;
    return part;
  }
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return value;
    }
    garbled();
  }
  uint64_t fixed(size_t n) {
    uint64_t value = 0;
    std::memcpy(&value, take(n).data(), n);
    return value;
  }

  std::string_view bytes_;
  const std::string& path_;
  size_t at_ = 0;
};

Piece parse_piece(std::string_view bytes, size_t id, const std::string& path) {
  Piece piece;
  Message message(bytes, path);
  for (Message::Field field; message.next(field);) {
    if (field.number == 1) {
      Message::expect(field, 2, path);
      piece.text = field.bytes;
    } else if (field.number == 2) {
      Message::expect(field, 5, path);
      piece.score = field.real();
      check(std::isfinite(piece.score), "tokenizer", path, ": piece ", id, " has score ", printable(piece.score));
    } else if (field.number == 3) {
      Message::expect(field, 0, path);
      check(field.integer >= 1 && field.integer <= 6, "tokenizer", path, ": piece ", id, " has unknown type ",
            field.integer);
      piece.type = static_cast<Piece::Type>(field.integer);
    }
  }
  return piece;
}

void parse_trainer(std::string_view bytes, const std::string& path) {
  uint64_t model_type = 1;  // the format's default
  Message message(bytes, path);
  for (Message::Field field; message.next(field);) {
    if (field.number == 3) model_type = field.integer;
    check(field.number != 24 || field.integer == 0, "tokenizer", path, ": treat_whitespace_as_suffix is not supported");
  }
  static const char* const names[] = {"?", "unigram", "bpe", "word", "char"};
  check(model_type == 2, "tokenizer", path, ": SentencePiece models of type '", names[model_type < 5 ? model_type : 0],
        "' are not supported, only 'bpe'");
}

void parse_normalizer(std::string_view bytes, const std::string& path, SentencePieceParts& parts) {
  parts.remove_extra_whitespaces = true;  // the format's default
  std::string_view rule;
  bool escapes = true;
  size_t map_bytes = 0;
  Message message(bytes, path);
  for (Message::Field field; message.next(field);) {
    if (field.number == 1) rule = field.bytes;
    if (field.number == 2) map_bytes = field.bytes.size();
    if (field.number == 3) parts.add_dummy_prefix = field.integer != 0;
    if (field.number == 4) parts.remove_extra_whitespaces = field.integer != 0;
    if (field.number == 5) escapes = field.integer != 0;
  }
  check(map_bytes == 0, "tokenizer", path, ": normalisation rule '", rule, "' is not supported, only 'identity'");
  check(escapes, "tokenizer", path, ": escape_whitespaces = false is not supported");
}

}  // namespace

SentencePieceParts parse_sentencepiece(std::string_view bytes, const std::string& path) {
  SentencePieceParts parts;
  parts.remove_extra_whitespaces = true;
  bool trainer = false;
  Message message(bytes, path);
  for (Message::Field field; message.next(field);) {
    if (field.number > 3) continue;
    Message::expect(field, 2, path);
    check(static_cast<int64_t>(parts.pieces.size()) < kMostTokens, "tokenizer", path, ": more than ", kMostTokens,
          " pieces");
    if (field.number == 1) parts.pieces.push_back(parse_piece(field.bytes, parts.pieces.size(), path));
    if (field.number == 2) parse_trainer(field.bytes, path);
    if (field.number == 3) parse_normalizer(field.bytes, path, parts);
    trainer |= field.number == 2;
  }
  check(!parts.pieces.empty(), "tokenizer", path, ": no pieces: this is not a SentencePiece model");
  check(trainer, "tokenizer", path, ": truncated: the trainer's settings, which name the model type, are missing");
  parts.file_name = "tokenizer.model";
  parts.file_bytes = bytes;
  return parts;
}

namespace {

void put_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
}
void put_integer(std::string& out, uint64_t field, uint64_t value) {
  put_varint(out, field << 3);
  put_varint(out, value);
}
void put_bytes(std::string& out, uint64_t field, std::string_view bytes) {
  put_varint(out, field << 3 | 2);
  put_varint(out, bytes.size());
  out += bytes;
}

}  // namespace

std::string serialize_sentencepiece(const SentencePieceParts& parts) {
  std::string out;
  bool bytes = false;
  for (const Piece& piece : parts.pieces) {
    std::string message;
    put_bytes(message, 1, piece.text);
    put_varint(message, 2 << 3 | 5);
    message.append(reinterpret_cast<const char*>(&piece.score), 4);
    put_integer(message, 3, static_cast<uint64_t>(piece.type));
    put_bytes(out, 1, message);
    bytes |= piece.type == Piece::Type::byte;
  }
  std::string trainer, normalizer;
  put_integer(trainer, 3, 2);  // model_type = BPE
  put_integer(trainer, 4, parts.pieces.size());
  put_integer(trainer, 35, bytes ? 1 : 0);  // byte_fallback
  put_bytes(out, 2, trainer);
  put_bytes(normalizer, 1, "identity");
  put_integer(normalizer, 3, parts.add_dummy_prefix ? 1 : 0);
  put_integer(normalizer, 4, parts.remove_extra_whitespaces ? 1 : 0);
  put_integer(normalizer, 5, 1);  // escape_whitespaces
  put_bytes(out, 3, normalizer);
  return out;
}

SentencePieceParts parse_llama2c_tokenizer(std::string_view bytes, const std::string& path) {
  constexpr size_t kFirstByte = 3, kFirstPiece = 259;
  size_t at = 0;
  const auto read = [&](auto& value) {
    check(bytes.size() - at >= sizeof value, "tokenizer", path, ": truncated at byte ", bytes.size(), ", in token ",
          at);
    std::memcpy(&value, bytes.data() + at, sizeof value);
    at += sizeof value;
  };
  int32_t longest = 0;
  read(longest);
  check(longest > 0 && longest <= 4096, "tokenizer", path, ": the longest token has ", longest,
        " bytes: this is not a llama2.c tokenizer");
  SentencePieceParts parts;
  while (at < bytes.size()) {
    const size_t id = parts.pieces.size();
    Piece piece;
    int32_t length = 0;
    read(piece.score);
    read(length);
    // (the exporter's longest counts the written bytes only, so BOS and EOS may be longer)
    check(length >= 0 && length <= std::max(longest, 16) && std::isfinite(piece.score), "tokenizer", path, ": token ",
          id, " has score ", printable(piece.score), " and ", length, " bytes, the longest being ", longest,
          ": the file is garbled");
    check(bytes.size() - at >= static_cast<size_t>(length), "tokenizer", path, ": truncated in token ", id);
    for (const char c : bytes.substr(at, static_cast<size_t>(length))) {
      piece.text += c == ' ' ? kMark : std::string_view(&c, 1);
    }
    at += static_cast<size_t>(length);
    check(static_cast<int64_t>(id) < kMostTokens, "tokenizer", path, ": more than ", kMostTokens, " tokens");
    if (id == 0) piece.type = Piece::Type::unknown;
    if (id == 1 || id == 2) {  // written with newlines around them
      piece.text = id == 1 ? "<s>" : "</s>";
      piece.type = Piece::Type::control;
    }
    if (id >= kFirstByte && id < kFirstPiece) piece.type = Piece::Type::byte;
    parts.pieces.push_back(std::move(piece));
  }
  check(parts.pieces.size() >= kFirstPiece, "tokenizer", path, ": truncated: ", parts.pieces.size(),
        " tokens, expected at least 259");
  return parts;
}

}  // namespace rw
