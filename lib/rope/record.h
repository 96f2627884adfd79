// A method's record, held by value whatever its type.
//
// A record is a plain struct. Every record has
//
//   static constexpr const char* kName, * kSummary;   its name in config.json and recipes; one line on what it is
//   static std::vector<Field> fields();               its table of fields (field.h)
//   bool operator==(const Record&) const = default;
//
// and what its family asks for: see RopeRecord (scaling.h) and PositionRecord (positions.h).
#pragma once
#include <concepts>
#include <map>
#include <memory>
#include <typeinfo>

#include "rope/field.h"

namespace rw {

template <class R>
concept MethodRecord = requires {
  { R::kName } -> std::convertible_to<std::string_view>;
  { R::kSummary } -> std::convertible_to<std::string_view>;
  { R::fields() } -> std::same_as<std::vector<Field>>;
}
&&std::copyable<R>&& std::equality_comparable<R>;

/// A value that holds one record: copied with it, equal if type and fields are.
/// RopeKind and PositionConfig are made of it.
class AnyRecord {
 public:
  AnyRecord(const AnyRecord& other) : held_(other.held_->clone()) {}
  AnyRecord(AnyRecord&&) noexcept = default;
  AnyRecord& operator=(const AnyRecord& other) {
    if (this != &other) held_ = other.held_->clone();
    return *this;
  }
  AnyRecord& operator=(AnyRecord&&) noexcept = default;
  ~AnyRecord() = default;

  std::string name() const { return std::string(held_->name()); }
  std::string summary() const { return std::string(held_->summary()); }
  const std::vector<Field>& fields() const { return held_->fields(); }

  /// The record as an R; null if it is of another type.
  template <MethodRecord R>
  const R* get() const {
    return held_->type() == typeid(R) ? static_cast<const R*>(held_->data()) : nullptr;
  }
  template <MethodRecord R>
  R* get() {
    return held_->type() == typeid(R) ? static_cast<R*>(held_->data()) : nullptr;
  }
  template <MethodRecord R>
  bool is() const {
    return get<R>() != nullptr;
  }
  bool operator==(const AnyRecord& other) const { return held_->equal(*other.held_); }
  template <MethodRecord R>
  bool operator==(const R& record) const {
    const R* own = get<R>();
    return own != nullptr && *own == record;
  }

  /// The field of that key; null if the record has none.
  const Field* find(std::string_view key) const;
  /// A field by its key, as text. Errors: no such field, text that is no value of it, values out of range (named).
  void set(std::string_view key, const std::string& text);
  std::string text(std::string_view key) const;
  /// Every field as text, by key: what a run's recipe states.
  std::map<std::string, std::string> texts() const;
  /// Every field lies in its range. Errors: the first that does not, named.
  void check_fields() const;

  void* data() { return held_->data(); }
  const void* data() const { return held_->data(); }

 protected:
  struct Held {
    virtual ~Held() = default;
    virtual std::unique_ptr<Held> clone() const = 0;
    virtual std::string_view name() const = 0;
    virtual std::string_view summary() const = 0;
    virtual const std::vector<Field>& fields() const = 0;
    virtual const std::type_info& type() const = 0;
    virtual void* data() = 0;
    virtual const void* data() const = 0;
    virtual bool equal(const Held& other) const = 0;
  };
  /// What every record's holder does alike. `Interface` is Held, or a struct of virtual functions derived from it.
  template <MethodRecord R, class Interface, class Self>
  struct Holder : Interface {
    explicit Holder(R r) : record(std::move(r)) {}
    std::unique_ptr<Held> clone() const override { return std::make_unique<Self>(record); }
    std::string_view name() const override { return R::kName; }
    std::string_view summary() const override { return R::kSummary; }
    const std::vector<Field>& fields() const override {
      static const std::vector<Field> table = R::fields();
      return table;
    }
    const std::type_info& type() const override { return typeid(R); }
    void* data() override { return &record; }
    const void* data() const override { return &record; }
    bool equal(const Held& other) const override {
      return other.type() == typeid(R) && *static_cast<const R*>(other.data()) == record;
    }
    R record;
  };

  explicit AnyRecord(std::unique_ptr<Held> held) : held_(std::move(held)) {}
  std::unique_ptr<Held> held_;
};

}  // namespace rw
