// The binary arithmetic coder: 32 bits, carry-less. [a, b] is what is left of the unit interval; a bit of
// probability p / 2^16 of being 1 takes [a, m] if it is 1 and [m + 1, b] if it is 0.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "arith.hpp"
#include "tables.hpp"

namespace compressor {

class Interval {
public:
    uint32_t middle(uint32_t p) const {
        return a_ + static_cast<uint32_t>(static_cast<uint64_t>(b_ - a_) * p >> 16);
    }

    void take(bool bit, uint32_t middle) {
        if (bit) {
            b_ = middle;
        } else {
            a_ = middle + 1;
        }
    }

    bool top_is_settled() const { return ((a_ ^ b_) >> 24) == 0; }

    uint8_t shift() {
        const auto top = static_cast<uint8_t>(a_ >> 24);
        a_ <<= 8;
        b_ = b_ << 8 | 255;
        return top;
    }

    // The fewest bytes that, followed by zeros, lie in [a, b]; of those of that length the smallest.
    size_t terminator(std::array<uint8_t, 4>& bytes) const {
        size_t size = 0;
        uint64_t value = 0;
        for (;; ++size) {
            const uint64_t step = uint64_t{1} << (32 - 8 * size);
            value = (a_ + step - 1) / step * step;
            if (value <= b_) break;
        }
        for (size_t i = 0; i < 4; ++i) bytes[i] = static_cast<uint8_t>(value >> (24 - 8 * i));
        return size;
    }

private:
    uint32_t a_ = 0, b_ = UINT32_MAX;
};

class Encoder {
public:
    static constexpr bool kDecodes = false;

    bool code(bool bit, uint32_t p) {
        interval_.take(bit, interval_.middle(p));
        while (interval_.top_is_settled()) bytes_.push_back(interval_.shift());
        return bit;
    }

    std::vector<uint8_t> finish() {
        std::array<uint8_t, 4> end;
        const size_t size = interval_.terminator(end);
        bytes_.insert(bytes_.end(), end.begin(), end.begin() + size);
        while (!bytes_.empty() && bytes_.back() == 0) bytes_.pop_back();
        return std::move(bytes_);
    }

private:
    Interval interval_;
    std::vector<uint8_t> bytes_;
};

class Decoder {
public:
    static constexpr bool kDecodes = true;

    explicit Decoder(std::span<const uint8_t> bytes) : bytes_(bytes) {
        for (size_t i = 0; i < 4; ++i) window_ = window_ << 8 | at(i);
    }

    bool code(bool, uint32_t p) {
        const uint32_t middle = interval_.middle(p);
        const bool bit = window_ <= middle;
        interval_.take(bit, middle);
        while (interval_.top_is_settled()) {
            interval_.shift();
            window_ = window_ << 8 | at(4 + shifted_++);
        }
        return bit;
    }

    // What was shifted out equals what was read, so only the end can differ from what the encoder writes.
    void finish() const {
        std::array<uint8_t, 4> end;
        const size_t size = interval_.terminator(end);
        if (!bytes_.empty() && bytes_.back() == 0) throw Rejected("has a stream that ends in a zero byte");
        if (bytes_.size() > shifted_ + size) throw Rejected("has a stream with unread bytes at its end");
        for (size_t i = 0; i < size; ++i) {
            if (at(shifted_ + i) != end[i]) throw Rejected("has a stream that ends in another way than the shortest");
        }
    }

private:
    uint8_t at(size_t place) const { return place < bytes_.size() ? bytes_[place] : 0; }

    Interval interval_;
    std::span<const uint8_t> bytes_;
    uint32_t window_ = 0;
    size_t shifted_ = 0;
};

}  // namespace compressor
