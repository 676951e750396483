// The constants of the models: log-odds in 1/256 nat to 16-bit probabilities (SQ) and back (ST), thresholds.
#pragma once

#include <array>
#include <cstdint>

#include "arith.hpp"

namespace compressor {

constexpr int kLimit = 2840;    // log-odds are held in -kLimit..kLimit
constexpr int kCentre = 4096;   // SQ[kCentre] is one half
constexpr uint32_t kOne = 65536;  // probability 1, never reached

constexpr std::array<uint16_t, 8192> kSquash = {
#include "squash.inc"
};

// ST[p] = smallest x with SQ[x + 4096] >= p, clipped.
struct Stretch {
    std::array<int16_t, 65536> value;

    Stretch() {
        int x = -kCentre;
        for (int p = 0; p < 65536; ++p) {
            while (x < kCentre - 1 && kSquash[x + kCentre] < p) ++x;
            value[p] = static_cast<int16_t>(clip(x, -kLimit, kLimit));
        }
    }
};

inline const Stretch& stretch_table() {
    static const Stretch table;
    return table;
}

inline int squash(int x) { return kSquash[x + kCentre]; }

// round(2^16 2^((b - 6 - 1/2) / 2)) for b = 1..11, and round(2^16 2^((b - 24 - 1/2) / 3)) for b = 1..47.
constexpr std::array<uint64_t, 11> kHalfSteps = {9742,  13777,  19484,  27554,  38968, 55109,
                                                 77936, 110218, 155872, 220436, 311744};
constexpr std::array<uint64_t, 47> kThirdSteps = {
    287,     362,     456,     575,     724,     912,     1149,    1448,    1825,    2299,    2896,    3649,
    4598,    5793,    7298,    9195,    11585,   14596,   18390,   23170,   29193,   36781,   46341,   58386,
    73562,   92682,   116772,  147123,  185364,  233544,  294247,  370728,  467088,  588493,  741455,  934175,
    1176987, 1482910, 1868350, 2353974, 2965821, 3736700, 4707947, 5931642, 7473400, 9415894, 11863283};

}  // namespace compressor
