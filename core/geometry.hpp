// What lies around a column of a layer: columns in a line, a picture, or the kernels of a convolution.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "layer.hpp"

namespace compressor {

enum class Kind { kLine, kKernel, kPicture };

struct Neighbour {
    int up, left, weight;
};

// Coded before, nearest first; the first ones are the pattern.
constexpr Neighbour kBefore[] = {{0, -1, 4}, {0, -2, 3}, {0, -3, 2}, {0, -4, 1}};
constexpr Neighbour kAround[] = {{0, -1, 4},  {-1, 0, 4},  {-1, -1, 3}, {-1, 1, 3},  {0, -2, 2}, {-2, 0, 2},
                                 {0, -3, 1},  {-1, -2, 1}, {-1, 2, 1},  {-2, -1, 1}, {-2, 1, 1}, {-3, 0, 1}};
constexpr Neighbour kInside[] = {{0, -1, 4},  {-1, 0, 4}, {-1, -1, 3}, {-1, 1, 3}, {0, -2, 3},  {-2, 0, 3},
                                 {-1, -2, 2}, {-1, 2, 2}, {-2, -1, 2}, {-2, 1, 2}, {-2, -2, 2}, {-2, 2, 2}};

// A neighbour that is there. offset: from the column to it; rank: its place in the list.
struct Link {
    int32_t offset;
    int16_t weight, rank;
};

// Which neighbours a column has: before it, (it being theirs) after it, and in the 5 x 5 pixels around it, with their
// weight in the 3 x 3. Few columns differ in that.
struct Spot {
    std::vector<Link> before, after, square;
    uint64_t near_weight = 0;

    uint64_t ring_weight() const { return square.size(); }
};

class Geometry {
public:
    explicit Geometry(const Layer& layer)
        : kind(layer.picture == 0 ? Kind::kLine : layer.picture == 1 ? Kind::kKernel : Kind::kPicture),
          columns(layer.columns), wide(kind == Kind::kKernel ? layer.wide : kind == Kind::kLine ? columns : layer.picture),
          high(kind == Kind::kKernel ? layer.high : kind == Kind::kLine ? 1 : columns / wide),
          pattern_bits(kind == Kind::kLine ? 2 : 6) {
        std::unordered_map<uint64_t, uint16_t> known;
        spot_of_.reserve(static_cast<size_t>(columns));
        for (int64_t column = 0; column < columns; ++column) {
            const auto [found, is_new] = known.try_emplace(code(column), static_cast<uint16_t>(spots_.size()));
            if (is_new) spots_.push_back(spot(found->first));
            spot_of_.push_back(found->second);
        }
    }

    const Spot& at(size_t column) const { return spots_[spot_of_[column]]; }

    const Kind kind;
    const int64_t columns, wide, high;
    const int pattern_bits;

private:
    static constexpr int kChannelRank = 12;  // the same place of the kernel before
    static constexpr int kAfter = 16, kSquare = 32, kReach = 2;

    std::span<const Neighbour> window() const {
        if (kind == Kind::kLine) return kBefore;
        if (kind == Kind::kKernel) return kInside;
        return kAround;
    }

    // One bit for each neighbour that is there.
    uint64_t code(int64_t column) const {
        const int64_t x = column % wide, y = column / wide % high, size = wide * high;
        const auto inside = [&](int64_t up, int64_t left) {
            return uint64_t{x + left >= 0 && x + left < wide && y + up >= 0 && y + up < high};
        };
        uint64_t bits = 0;
        int rank = 0;
        for (const Neighbour& n : window()) {
            bits |= inside(n.up, n.left) << rank | inside(-n.up, -n.left) << (kAfter + rank);
            ++rank;
        }
        if (kind == Kind::kKernel) {
            bits |= uint64_t{column >= size} << kChannelRank;
            bits |= uint64_t{column + size < columns} << (kAfter + kChannelRank);
        }
        if (kind == Kind::kPicture) {
            rank = 0;
            for_square([&](int up, int left) { bits |= inside(up, left) << (kSquare + rank++); });
        }
        return bits;
    }

    template <class Visitor>
    static void for_square(Visitor visit) {
        for (int up = -kReach; up <= kReach; ++up) {
            for (int left = -kReach; left <= kReach; ++left) {
                if (up != 0 || left != 0) visit(up, left);
            }
        }
    }

    Spot spot(uint64_t code) const {
        Spot found;
        const auto add = [&](int64_t offset, int weight, int rank) {
            const Link link{static_cast<int32_t>(offset), static_cast<int16_t>(weight), static_cast<int16_t>(rank)};
            if (code >> rank & 1) found.before.push_back(link);
            if (code >> (kAfter + rank) & 1) found.after.push_back({-link.offset, link.weight, link.rank});
        };
        int rank = 0;
        for (const Neighbour& n : window()) add(n.up * wide + n.left, n.weight, rank++);
        if (kind == Kind::kKernel) add(-wide * high, 1, kChannelRank);
        rank = kSquare;
        for_square([&](int up, int left) {
            const bool far = up < -1 || up > 1 || left < -1 || left > 1;
            const int16_t weight = far ? 0 : up != 0 && left != 0 ? 1 : 2;
            if (!(code >> rank++ & 1)) return;
            found.square.push_back({static_cast<int32_t>(up * wide + left), weight, 0});
            found.near_weight += static_cast<uint64_t>(weight);
        });
        return found;
    }

    std::vector<Spot> spots_;
    std::vector<uint16_t> spot_of_;
};

}  // namespace compressor
