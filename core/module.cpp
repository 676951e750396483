// The Python module compressor.packed._core: buffers in, bytes and arrays out, the GIL released in between.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "mask.hpp"
#include "planes.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace compressor {
namespace {

template <class T, class Shape = nb::ndim<1>>
using Input = nb::ndarray<const T, Shape, nb::c_contig, nb::device::cpu>;
template <class Shape>
using Output = nb::ndarray<nb::numpy, uint8_t, Shape>;
using Flat = Output<nb::ndim<1>>;
using Fans = std::optional<Input<int64_t>>;

template <class Shape>
Output<Shape> to_numpy(std::unique_ptr<uint8_t[]> bytes, std::initializer_list<size_t> shape) {
    uint8_t* const data = bytes.get();
    nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<uint8_t*>(p); });
    bytes.release();
    return Output<Shape>(data, shape, owner);
}

std::span<const uint8_t> view(const nb::bytes& data) {
    return {static_cast<const uint8_t*>(data.data()), data.size()};
}

nb::bytes to_bytes(const std::vector<uint8_t>& data) { return nb::bytes(data.data(), data.size()); }

Layer checked(bool mixed, int64_t rows, int64_t columns, int64_t kept, int64_t picture, int64_t high, int64_t wide,
              const Fans& fan, bool ordered, bool has_signs) {
    Layer layer{mixed, rows, columns, kept, picture, high, wide, {}, ordered, has_signs};
    if (fan && fan->size() == 0 && columns > 0) throw Rejected("has a producer without survivors");
    if (fan) layer.fan = {fan->data(), fan->size()};
    check(layer);
    return layer;
}

int64_t count_ones(const Input<uint8_t>& bits) {
    uint8_t seen = 0;
    int64_t ones = 0;
    for (size_t i = 0; i < bits.size(); ++i) {
        seen |= bits.data()[i];
        ones += bits.data()[i];
    }
    if (seen > 1) throw Rejected("has a bit that is neither 0 nor 1");
    return ones;
}

nb::bytes py_encode_mask(const Input<uint8_t>& mask, const std::optional<Input<uint8_t>>& signs, bool mixed, int64_t rows,
                         int64_t columns, int64_t kept, int64_t picture, int64_t high, int64_t wide, const Fans& fan,
                         bool ordered, bool has_signs) {
    const Layer layer = checked(mixed, rows, columns, kept, picture, high, wide, fan, ordered, has_signs);
    if (mask.size() != static_cast<size_t>(rows * columns)) throw Rejected("has a mask of another size");
    if ((signs ? signs->size() : 0) != static_cast<size_t>(has_signs ? kept : 0)) {
        throw Rejected("has another number of signs");
    }
    std::vector<uint8_t> stream;
    {
        nb::gil_scoped_release release;
        if (signs) count_ones(*signs);
        if (count_ones(mask) != kept) throw Rejected("has a mask with another number of survivors");
        stream = encode_mask(layer, mask.data(), signs ? signs->data() : nullptr);
    }
    return to_bytes(stream);
}

std::pair<Flat, Flat> py_decode_mask(const nb::bytes& data, bool mixed, int64_t rows, int64_t columns, int64_t kept,
                                     int64_t picture, int64_t high, int64_t wide, const Fans& fan, bool ordered,
                                     bool has_signs) {
    const Layer layer = checked(mixed, rows, columns, kept, picture, high, wide, fan, ordered, has_signs);
    const auto places = static_cast<size_t>(rows * columns);
    const auto sign_count = static_cast<size_t>(has_signs ? kept : 0);
    std::unique_ptr<uint8_t[]> mask(new uint8_t[places]), signs(new uint8_t[sign_count]);
    {
        nb::gil_scoped_release release;
        decode_mask(layer, view(data), mask.get(), signs.get());
    }
    return {to_numpy<nb::ndim<1>>(std::move(mask), {places}), to_numpy<nb::ndim<1>>(std::move(signs), {sign_count})};
}

void py_encode_planes(const Input<uint8_t, nb::ndim<2>>& planes, const nb::callable& take) {
    nb::gil_scoped_release release;
    encode_planes(planes.data(), planes.shape(0), planes.shape(1), [&take](const std::vector<uint8_t>& stream) {
        nb::gil_scoped_acquire acquire;
        take(to_bytes(stream));
    });
}

Output<nb::ndim<2>> py_decode_planes(const nb::bytes& data, int64_t planes, int64_t count) {
    if (planes < 0 || planes > 16 || count < 0 || count > kMaxWeights) throw Rejected("has impossible planes");
    const auto number = static_cast<size_t>(planes), size = static_cast<size_t>(count);
    std::unique_ptr<uint8_t[]> out(new uint8_t[number * size]);
    {
        nb::gil_scoped_release release;
        decode_planes(view(data), out.get(), number, size);
    }
    return to_numpy<nb::ndim<2>>(std::move(out), {number, size});
}

// SQ as little-endian u16, then ST as i16: what the specification gives a SHA-256 of.
nb::bytes py_tables() {
    std::vector<uint8_t> bytes;
    const auto put = [&bytes](auto value) {
        bytes.push_back(static_cast<uint8_t>(value & 255));
        bytes.push_back(static_cast<uint8_t>(value >> 8 & 255));
    };
    for (const uint16_t value : kSquash) put(value);
    for (const int16_t value : stretch_table().value) put(value);
    return to_bytes(bytes);
}

}  // namespace
}  // namespace compressor

NB_MODULE(_core, m) {
    using namespace compressor;
    m.doc() = "The arithmetic coder in C++; the same bytes as the plain Python in reader.py.";
    m.attr("MODEL") = 2;  // of the coder and of these calls: reader.py uses no core of another one
    m.def("encode_mask", &py_encode_mask, "mask"_a, "signs"_a.none(), "mixed"_a, "rows"_a, "columns"_a, "kept"_a, "picture"_a,
          "high"_a, "wide"_a, "fan"_a.none(), "ordered"_a, "signed"_a);
    m.def("decode_mask", &py_decode_mask, "data"_a, "mixed"_a, "rows"_a, "columns"_a, "kept"_a, "picture"_a, "high"_a,
          "wide"_a, "fan"_a.none(), "ordered"_a, "signed"_a);
    m.def("encode_planes", &py_encode_planes, "planes"_a, "take"_a);
    m.def("decode_planes", &py_decode_planes, "data"_a, "planes"_a, "count"_a);
    m.def("tables", &py_tables);
}
