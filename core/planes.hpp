// Values as byte planes, the most significant byte of each value first: exponents repeat, mantissas hardly do.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "coder.hpp"
#include "parts.hpp"

namespace compressor {

// Codes planes one after the other, each under the one before. Encoding reads the plane, decoding writes it.
template <class Coder>
class Planes {
    using Byte = std::conditional_t<Coder::kDecodes, uint8_t, const uint8_t>;

public:
    Planes(Coder& coder, size_t count) : coder_(coder), count_(count) {}

    void code(Byte* plane) {
        std::vector<Counter> alone(256), below(256 * 256);
        std::vector<Mixer<2>> mixers(256, Mixer<2>({32768, 32768}));
        for (size_t place = 0; place < count_; ++place) {
            Counter* const under = &below[above_ ? size_t{above_[place]} << 8 : 0];
            const uint8_t byte = Coder::kDecodes ? uint8_t{0} : plane[place];
            size_t node = 1;
            for (int shift = 7; shift >= 0; --shift) {
                node = node << 1 | code(byte >> shift & 1, alone[node], under[node], mixers[node]);
            }
            if constexpr (Coder::kDecodes) plane[place] = static_cast<uint8_t>(node);
        }
        above_ = plane;
    }

private:
    bool code(bool bit, Counter& alone, Counter& below, Mixer<2>& mixer) {
        const std::array<int64_t, 2> inputs = {stretch_.value[alone.p()], stretch_.value[below.p()]};
        const int p = squash(mixer.mix(inputs));
        bit = coder_.code(bit, static_cast<uint32_t>(p));
        mixer.learn(inputs, bit, p, 256);
        alone.update(bit);
        below.update(bit);
        return bit;
    }

    Coder& coder_;
    const size_t count_;
    const uint8_t* above_ = nullptr;
    const Stretch& stretch_ = stretch_table();
};

// Gives `take` the streams of the first plane, the first two, and so on: of giants only one is to be in memory.
template <class Take>
void encode_planes(const uint8_t* planes, size_t number, size_t count, Take take) {
    Encoder coder;
    Planes<Encoder> model(coder, count);
    for (size_t i = 0; i < number; ++i) {
        model.code(planes + i * count);
        take(i + 1 < number ? Encoder(coder).finish() : coder.finish());
    }
}

inline void decode_planes(std::span<const uint8_t> bytes, uint8_t* planes, size_t number, size_t count) {
    Decoder coder(bytes);
    Planes<Decoder> model(coder, count);
    for (size_t i = 0; i < number; ++i) model.code(planes + i * count);
    coder.finish();
}

}  // namespace compressor
