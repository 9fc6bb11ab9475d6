// Poses of the people in a picture, with ONNX Runtime on the CPU.
//
//     cmake -S examples/cpp -B build && cmake --build build
//     build/sharpose_onnxruntime BUNDLE PICTURE.ppm X1,Y1,X2,Y2 ...
#include <onnxruntime_cxx_api.h>

#include <array>

#include "sharpose.hpp"

namespace {

using sharpose::Keypoint;

Ort::SessionOptions session_options(const sharpose::Bundle& bundle) {
    Ort::SessionOptions options;
    // A graph that takes any number of regions is prepared for this one.
    Ort::ThrowOnError(Ort::GetApi().AddFreeDimensionOverrideByName(options, "4*K", 4 * bundle.selected));
    // The two sessions take turns; without this, threads of the one that has run go on spinning.
    options.AddConfigEntry("session.force_spinning_stop", "1");
    // A GPU: options.AppendExecutionProvider_CUDA(...), and Ort::IoBinding, so that region features stay there.
    return options;
}

class OnnxRuntimeStages final : public sharpose::Stages {
public:
    explicit OnnxRuntimeStages(const sharpose::Bundle& bundle)
        : bundle_(bundle),
          environment_(ORT_LOGGING_LEVEL_FATAL, "sharpose"),  // errors come as exceptions
          coarse_(environment_, bundle.coarse.c_str(), session_options(bundle)),
          fine_(environment_, bundle.fine.c_str(), session_options(bundle)) {
        for (int index = 0; index < 5; ++index) fine_inputs_.emplace_back(nullptr);
    }

    int max_batch() const override { return bundle_.max_batch; }

    sharpose::Coarse run_coarse(std::vector<std::uint8_t>& crops, int people) override {
        static constexpr std::array inputs = {"image"};
        static constexpr std::array outputs = {
            "region_order", "region_features", "region_embeddings", "keypoints", "quality"};
        const Ort::Value image = tensor(crops, {people, bundle_.crop_height, bundle_.crop_width, 3});
        auto found =
            coarse_.Run(Ort::RunOptions(), inputs.data(), &image, inputs.size(), outputs.data(), outputs.size());
        sharpose::Coarse coarse{
            copy<Keypoint, float>(found[3]), copy<float, float>(found[4]), copy<std::int32_t, std::int32_t>(found[0])};
        for (int index = 0; index < 3; ++index) fine_inputs_[2 + index] = std::move(found[index]);
        return coarse;
    }

    std::vector<Keypoint> run_fine(std::vector<std::int32_t>& rows, std::vector<std::uint8_t>& patches) override {
        static constexpr std::array inputs = {
            "rows", "patches", "region_order", "region_features", "region_embeddings"};
        static constexpr std::array outputs = {"keypoints"};
        const auto count = static_cast<std::int64_t>(rows.size());
        fine_inputs_[0] = tensor(rows, {count});
        fine_inputs_[1] = tensor(patches, {count, 4 * bundle_.selected, 768});
        const auto found = fine_.Run(Ort::RunOptions(), inputs.data(), fine_inputs_.data(), inputs.size(),
                                     outputs.data(), outputs.size());
        return copy<Keypoint, float>(found[0]);
    }

private:
    // A tensor that uses the values where they are.
    template <typename Value>
    static Ort::Value tensor(std::vector<Value>& values, const std::vector<std::int64_t>& shape) {
        static const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
        return Ort::Value::CreateTensor<Value>(memory, values.data(), values.size(), shape.data(), shape.size());
    }

    // A tensor's numbers, as they are or three together.
    template <typename Item, typename Number>
    static std::vector<Item> copy(const Ort::Value& value) {
        const auto* first = reinterpret_cast<const Item*>(value.GetTensorData<Number>());
        return {first, first + value.GetTensorTypeAndShapeInfo().GetElementCount() * sizeof(Number) / sizeof(Item)};
    }

    const sharpose::Bundle& bundle_;
    Ort::Env environment_;
    Ort::Session coarse_, fine_;
    std::vector<Ort::Value> fine_inputs_;  // the last three are the coarse stage's outputs
};

}  // namespace

int main(int count, char** arguments) {
    return sharpose::run_program(count, arguments, [](const sharpose::Bundle& bundle) -> std::unique_ptr<sharpose::Stages> {
        return std::make_unique<OnnxRuntimeStages>(bundle);
    });
}
