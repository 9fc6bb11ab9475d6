// Poses of the people in a picture, with TensorRT or TensorRT-RTX on an NVIDIA GPU.
//
//     sharpose-export --bundle BUNDLE --tensorrt
//     cmake -S examples/cpp -B build -D TENSORRT_ROOT=/opt/TensorRT && cmake --build build
//     build/sharpose_tensorrt BUNDLE PICTURE.ppm X1,Y1,X2,Y2 ...
//
// No GPU has run it yet: it was compiled, linked with TensorRT-RTX, and run on a stand-in for TensorRT.
#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <map>

#include "sharpose.hpp"

namespace {

using nvinfer1::DataType;
using sharpose::Error;
using sharpose::Keypoint;

void check(cudaError_t status, const std::string& what) {
    if (status != cudaSuccess) throw Error(what + ": " + cudaGetErrorString(status));
}

// Keeps the last error, for the one line that the user sees.
class Logger final : public nvinfer1::ILogger {
public:
    void log(Severity severity, const char* message) noexcept override {
        if (severity <= Severity::kERROR) std::snprintf(last_, sizeof last_, "%s", message);
    }
    std::string because() const { return last_[0] == '\0' ? "" : std::string(" (") + last_ + ")"; }

private:
    char last_[500] = {};
};

struct FreeDevice {
    void operator()(void* memory) const { cudaFree(memory); }
};
using DeviceMemory = std::unique_ptr<void, FreeDevice>;

DeviceMemory allocate(std::size_t bytes) {
    void* memory = nullptr;
    check(cudaMalloc(&memory, std::max<std::size_t>(bytes, 1)), "GPU memory");
    return DeviceMemory(memory);
}

struct FreeStream {
    void operator()(cudaStream_t stream) const { cudaStreamDestroy(stream); }
};
using Stream = std::unique_ptr<CUstream_st, FreeStream>;

Stream make_stream() {
    cudaStream_t stream = nullptr;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "no GPU that CUDA can use");
    return Stream(stream);
}

std::size_t item_bytes(DataType type) {
    switch (type) {
        case DataType::kUINT8: return 1;
        case DataType::kHALF: return 2;
        case DataType::kFLOAT:
        case DataType::kINT32: return 4;
        default: throw Error("an engine has a tensor of a type that bundles don't have");
    }
}

// One device buffer for each name: what the coarse stage leaves in `region_features` is where the fine stage reads it.
using Buffers = std::map<std::string, std::pair<DeviceMemory, std::size_t>>;

// A plan, with an execution context for each of its profiles.
class Engine {
public:
    Engine(nvinfer1::IRuntime& runtime, const Logger& logger, const std::filesystem::path& plan,
           const std::string& batch_input, Buffers& buffers)
        : name_(plan.string()), logger_(logger), batch_input_(batch_input), buffers_(buffers) {
        std::ifstream stream(plan, std::ios::binary);
        const std::vector<char> bytes(std::istreambuf_iterator<char>(stream), {});
        engine_.reset(runtime.deserializeCudaEngine(bytes.data(), bytes.size()));
        if (!engine_) fail("can't be loaded here");
        const int profiles = engine_->getNbOptimizationProfiles();
        min_batch_ = batch_limit(0, nvinfer1::OptProfileSelector::kMIN);
        max_batch_ = batch_limit(profiles - 1, nvinfer1::OptProfileSelector::kMAX);
        for (int index = 0; index < engine_->getNbIOTensors(); ++index) {
            const char* tensor = engine_->getIOTensorName(index);
            const bool is_input = engine_->getTensorIOMode(tensor) == nvinfer1::TensorIOMode::kINPUT;
            auto shape = is_input
                             ? engine_->getProfileShape(tensor, profiles - 1, nvinfer1::OptProfileSelector::kMAX)
                             : engine_->getTensorShape(tensor);
            if (shape.d[0] < 0) shape.d[0] = max_batch_;  // the only dynamic axis
            std::size_t bytes_needed = item_bytes(engine_->getTensorDataType(tensor));
            for (int axis = 0; axis < shape.nbDims; ++axis) bytes_needed *= shape.d[axis];
            auto& [memory, held] = buffers[tensor];
            if (held < bytes_needed) {
                memory = allocate(bytes_needed);
                held = bytes_needed;
            }
            tensors_.push_back({tensor, is_input, shape});
        }
        scratch_ = allocate(engine_->getDeviceMemorySizeV2());
        contexts_.resize(profiles);
    }

    int min_batch() const { return min_batch_; }
    int max_batch() const { return max_batch_; }

    // Put a run into the stream. Inputs whose first axis isn't the batch stay at their largest: the fine stage's N.
    void enqueue(int batch, cudaStream_t stream) {
        int profile = 0;
        while (batch > batch_limit(profile, nvinfer1::OptProfileSelector::kMAX)) ++profile;
        auto& context = contexts_[profile];
        if (!context) {
            context.reset(
                engine_->createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED));
            if (!context) fail("can't make an execution context");
            if (!context->setOptimizationProfileAsync(profile, stream)) fail("refuses the profile");
            check(cudaStreamSynchronize(stream), name_);
            context->setDeviceMemoryV2(scratch_.get(), engine_->getDeviceMemorySizeV2());
        }
        for (const auto& tensor : tensors_) {
            auto shape = tensor.largest;
            if (tensor.name == batch_input_ || (tensor.name == "patches" && batch_input_ == "rows")) shape.d[0] = batch;
            if (tensor.is_input && !context->setInputShape(tensor.name.c_str(), shape)) fail("refuses the batch");
            if (!context->setTensorAddress(tensor.name.c_str(), buffers_.at(tensor.name).first.get())) {
                fail("refuses a buffer");
            }
        }
        if (!context->enqueueV3(stream)) fail("can't run");
    }

private:
    struct Tensor {
        std::string name;
        bool is_input;
        nvinfer1::Dims largest;
    };

    int batch_limit(int profile, nvinfer1::OptProfileSelector which) const {
        return static_cast<int>(engine_->getProfileShape(batch_input_.c_str(), profile, which).d[0]);
    }

    [[noreturn]] void fail(const std::string& what) const { throw Error(name_ + ": " + what + logger_.because()); }

    std::string name_;
    const Logger& logger_;
    std::string batch_input_;
    Buffers& buffers_;
    std::unique_ptr<nvinfer1::ICudaEngine> engine_;
    DeviceMemory scratch_;
    std::vector<std::unique_ptr<nvinfer1::IExecutionContext>> contexts_;
    std::vector<Tensor> tensors_;
    int min_batch_ = 0, max_batch_ = 0;
};

class TensorRtStages final : public sharpose::Stages {
public:
    explicit TensorRtStages(const sharpose::Bundle& bundle)
        : bundle_(bundle),
          coarse_plan_(sharpose::engine_plan(bundle, "coarse")),
          fine_plan_(sharpose::engine_plan(bundle, "fine")),
          stream_(make_stream()),
          runtime_(nvinfer1::createInferRuntime(logger_)),
          coarse_(runtime(), logger_, coarse_plan_, "image", buffers_),
          fine_(runtime(), logger_, fine_plan_, "rows", buffers_) {
        const std::size_t patches = fine_.max_batch() * std::size_t{4 * 768} * bundle.selected;
        if (buffers_.at("patches").second != patches) {
            throw Error(fine_plan_.string() + ": built for another share of regions (alpha) than bundle.json has");
        }
    }

    int max_batch() const override { return std::min(coarse_.max_batch(), fine_.max_batch()); }

    sharpose::Coarse run_coarse(std::vector<std::uint8_t>& crops, int people) override {
        upload("image", crops);
        coarse_.enqueue(std::max(people, coarse_.min_batch()), stream_.get());
        sharpose::Coarse coarse{std::vector<Keypoint>(people * bundle_.keypoints.size()), std::vector<float>(people),
                                std::vector<std::int32_t>(people * bundle_.regions())};
        download("keypoints", coarse.keypoints);
        download("quality", coarse.quality);
        download("region_order", coarse.order);
        check(cudaStreamSynchronize(stream_.get()), "the coarse stage");
        return coarse;
    }

    std::vector<Keypoint> run_fine(std::vector<std::int32_t>& rows, std::vector<std::uint8_t>& patches) override {
        std::vector<std::int32_t> padded = rows;
        padded.resize(std::max<std::size_t>(rows.size(), fine_.min_batch()), rows.front());
        upload("rows", padded);
        upload("patches", patches);
        fine_.enqueue(static_cast<int>(padded.size()), stream_.get());
        std::vector<Keypoint> keypoints(rows.size() * bundle_.keypoints.size());
        download("keypoints", keypoints);
        check(cudaStreamSynchronize(stream_.get()), "the fine stage");
        return keypoints;
    }

private:
    nvinfer1::IRuntime& runtime() const {
        if (!runtime_) throw Error("TensorRT can't start" + logger_.because());
        return *runtime_;
    }

    template <typename Value>
    void upload(const char* tensor, const std::vector<Value>& values) {
        check(cudaMemcpyAsync(buffers_.at(tensor).first.get(), values.data(), values.size() * sizeof(Value),
                              cudaMemcpyHostToDevice, stream_.get()),
              tensor);
    }

    template <typename Value>
    void download(const char* tensor, std::vector<Value>& values) {
        check(cudaMemcpyAsync(values.data(), buffers_.at(tensor).first.get(), values.size() * sizeof(Value),
                              cudaMemcpyDeviceToHost, stream_.get()),
              tensor);
    }

    const sharpose::Bundle& bundle_;
    std::filesystem::path coarse_plan_, fine_plan_;
    Logger logger_;
    Stream stream_;
    Buffers buffers_;
    std::unique_ptr<nvinfer1::IRuntime> runtime_;
    Engine coarse_, fine_;
};

}  // namespace

int main(int count, char** arguments) {
    return sharpose::run_program(count, arguments, [](const sharpose::Bundle& bundle) -> std::unique_ptr<sharpose::Stages> {
        return std::make_unique<TensorRtStages>(bundle);
    });
}
