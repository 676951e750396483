// libFuzzer on the core: whatever the bytes, a decoder gives Rejected or content whose only encoding they are.
#include <cstdint>
#include <cstdlib>
#include <span>
#include <utility>
#include <vector>

#include "mask.hpp"
#include "planes.hpp"

using namespace compressor;

namespace {

using Bytes = std::vector<uint8_t>;

// A layer, small enough for hundreds of runs a second, from the first bytes of the input.
struct Case {
    static constexpr size_t kHeader = 9;

    explicit Case(const uint8_t* bytes) {
        const int64_t across = bytes[0] % 13, down = bytes[1] % 13, many = bytes[2] % 4;
        layer.mixed = bytes[3] & 1;
        layer.ordered = bytes[3] & 2;
        layer.has_signs = bytes[3] & 4;
        layer.picture = bytes[3] & 8 ? 1 : bytes[3] & 16 ? across : 0;
        layer.rows = bytes[4] % 25;
        layer.columns = across * down * (layer.picture == 1 ? many : 1);
        layer.high = down;
        layer.wide = across;
        layer.kept = bytes[5] | (bytes[6] & 15) << 8;
        for (int64_t c = 0; c < bytes[7] % 40; ++c) fan.push_back(c * bytes[8] % 97 - (bytes[8] == 1));
        layer.fan = fan;
    }
    Case(const Case&) = delete;

    Layer layer;
    std::vector<int64_t> fan;
};

void expect(bool holds) {
    if (!holds) std::abort();
}

// In blocks of exactly the right size, so that every step outside is seen.
struct Content {
    explicit Content(const Layer& layer)
        : mask(static_cast<size_t>(layer.rows * layer.columns)),
          signs(static_cast<size_t>(layer.has_signs ? layer.kept : 0)) {}

    bool operator==(const Content&) const = default;

    Bytes mask, signs;
};

void decode(const Layer& layer, std::span<const uint8_t> stream) {
    Content found(layer);
    try {
        decode_mask(layer, stream, found.mask.data(), found.signs.data());
    } catch (const Rejected&) {
        return;
    }
    const Bytes again = encode_mask(layer, found.mask.data(), found.signs.data());
    expect(std::equal(again.begin(), again.end(), stream.begin(), stream.end()));
}

void round_trip(Layer layer, std::span<const uint8_t> bits) {
    const auto bit = [&](size_t i) { return bits.empty() ? 0 : bits[i / 8 % bits.size()] >> i % 8 & 1; };
    layer.kept = 0;
    const auto places = static_cast<size_t>(layer.rows * layer.columns);
    for (size_t i = 0; i < places; ++i) layer.kept += bit(i);
    Content given(layer);
    for (size_t i = 0; i < places; ++i) given.mask[i] = static_cast<uint8_t>(bit(i));
    for (size_t i = 0; i < given.signs.size(); ++i) given.signs[i] = static_cast<uint8_t>(bit(3 * i + 1));
    Content found(layer);
    try {
        const Bytes stream = encode_mask(layer, given.mask.data(), given.signs.data());
        decode_mask(layer, stream, found.mask.data(), found.signs.data());
    } catch (const Rejected&) {
        expect(layer.ordered);  // the rows do not descend
        return;
    }
    expect(given == found);
}

Bytes encoded(const uint8_t* planes, size_t number, size_t count) {
    Bytes last;
    encode_planes(planes, number, count, [&last](Bytes stream) { last = std::move(stream); });
    return last;
}

void planes(size_t number, std::span<const uint8_t> bytes) {
    const size_t count = bytes.size() / number;
    Bytes found(number * count);
    decode_planes(encoded(bytes.data(), number, count), found.data(), number, count);
    expect(std::equal(found.begin(), found.end(), bytes.begin()));
    try {
        decode_planes(bytes, found.data(), number, count);
    } catch (const Rejected&) {
        return;
    }
    const Bytes again = encoded(found.data(), number, count);
    expect(std::equal(again.begin(), again.end(), bytes.begin(), bytes.end()));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
    if (size < Case::kHeader) return 0;
    const Case given(bytes);
    const std::span<const uint8_t> rest(bytes + Case::kHeader, size - Case::kHeader);
    if (bytes[3] & 32) {
        planes(1 + bytes[0] % 4, rest);
        return 0;
    }
    try {
        check(given.layer);
    } catch (const Rejected&) {
        return 0;
    }
    decode(given.layer, rest);
    round_trip(given.layer, rest);
    return 0;
}
