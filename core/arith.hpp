// Integer arithmetic as Python does it: division rounds towards minus infinity. No floats anywhere in core/.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>

namespace compressor {

// Why bytes are not a stream of ours, or arguments not a tensor: becomes a ValueError.
struct Rejected : std::invalid_argument {
    using std::invalid_argument::invalid_argument;
};

template <class Int>
constexpr Int clip(Int x, Int low, Int high) {
    return x < low ? low : x > high ? high : x;
}

// floor(n / divisor) for n < 2^63 by a multiplication: the estimate is right or one too high, whatever n.
class Divider {
public:
    explicit Divider(uint64_t divisor) : divisor_(divisor), inverse_(divisor > 1 ? UINT64_MAX / divisor + 1 : 0) {}

    uint64_t operator()(uint64_t n) const {
#ifdef __SIZEOF_INT128__
        if (divisor_ == 1) return n;
        const auto q = static_cast<uint64_t>(static_cast<unsigned __int128>(n) * inverse_ >> 64);
        return q - (q * divisor_ > n);
#else
        return n / divisor_;
#endif
    }

private:
    uint64_t divisor_, inverse_;
};

// floor(n / divisor); the short division where both fit in 32 bits, which is twice as fast on many machines.
inline uint64_t divide(uint64_t n, uint64_t divisor) {
    if ((n | divisor) >> 32) return n / divisor;
    return static_cast<uint32_t>(n) / static_cast<uint32_t>(divisor);
}

}  // namespace compressor
