// A stand-in for TensorRT's runtime that computes with ONNX Runtime, for examples/cpp/tensorrt.cpp. It is as strict as
// TensorRT where a mistake would go unnoticed: shapes must lie in the profile, and scratch memory must be lent.
//
// A plan is text: the ONNX file, the input whose first axis is the batch, the ends of two profiles' batches,
// and the patches of a person: `coarse.onnx image 2 3 5 96` has profiles of 2 to 3 and of 4 to 5.
#pragma once

#include <cuda_runtime_api.h>
#include <onnxruntime_cxx_api.h>

#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace nvinfer1 {

enum class DataType { kFLOAT, kHALF, kINT32, kUINT8, kINT64 };
enum class TensorIOMode { kINPUT, kOUTPUT };
enum class OptProfileSelector { kMIN, kOPT, kMAX };
enum class ExecutionContextAllocationStrategy { kUSER_MANAGED };

struct Dims {
    int nbDims = 0;
    std::int64_t d[8] = {};
};

struct ILogger {
    enum class Severity { kINTERNAL_ERROR, kERROR, kWARNING };
    virtual ~ILogger() = default;
    virtual void log(Severity severity, const char* message) noexcept = 0;
};

struct Tensor {
    std::string name;
    bool is_input;
    std::vector<std::int64_t> shape;  // -1 where dynamic
    ONNXTensorElementDataType type;
};

struct Network {
    std::unique_ptr<Ort::Session> session;
    std::string batch_input;
    std::pair<int, int> profiles[2];
    std::vector<Tensor> tensors;

    int most() const { return profiles[1].second; }

    const Tensor& tensor(const std::string& name) const {
        for (const Tensor& item : tensors) {
            if (item.name == name) return item;
        }
        std::abort();
    }

    bool has_batch(const std::string& name) const {
        const bool goes_along = batch_input == "rows" && name == "patches";
        return name == batch_input || goes_along || !tensor(name).is_input;
    }
};

constexpr std::int64_t kScratch = 64;

class IExecutionContext {
public:
    explicit IExecutionContext(const Network& network) : network_(network) {}

    bool setOptimizationProfileAsync(int profile, cudaStream_t) {
        profile_ = profile;
        return true;
    }

    void setDeviceMemoryV2(void* memory, std::int64_t size) { has_scratch_ = memory != nullptr && size >= kScratch; }

    bool setInputShape(const char* name, const Dims& shape) {
        const auto [least, most] = network_.profiles[profile_];
        const std::int64_t first = shape.d[0];
        if (network_.has_batch(name) ? first < least || first > most : first != network_.most()) return false;
        shapes_[name].assign(shape.d, shape.d + shape.nbDims);
        return true;
    }

    bool setTensorAddress(const char* name, void* memory) {
        addresses_[name] = memory;
        return memory != nullptr;
    }

    bool enqueueV3(cudaStream_t) {
        if (!has_scratch_) return false;
        const std::int64_t batch = shapes_.at(network_.batch_input)[0];
        std::fprintf(stderr, "%s: profile %d, batch %d\n", network_.batch_input.c_str(), profile_, int(batch));
        std::vector<Ort::Value> values[2];
        std::vector<const char*> names[2];
        for (const Tensor& tensor : network_.tensors) {
            auto shape = tensor.is_input ? shapes_.at(tensor.name) : tensor.shape;
            shape[0] = network_.has_batch(tensor.name) ? batch : shape[0];
            std::size_t bytes = tensor.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8     ? 1
                                : tensor.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 ? 2
                                                                                       : 4;
            for (const std::int64_t size : shape) bytes *= size;
            const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
            void* const address = addresses_.at(tensor.name);
            values[tensor.is_input].push_back(
                Ort::Value::CreateTensor(memory, address, bytes, shape.data(), shape.size(), tensor.type));
            names[tensor.is_input].push_back(tensor.name.c_str());
        }
        network_.session->Run(Ort::RunOptions(), names[1].data(), values[1].data(), values[1].size(), names[0].data(),
                              values[0].data(), values[0].size());
        return true;
    }

private:
    const Network& network_;
    int profile_ = 0;
    bool has_scratch_ = false;
    std::map<std::string, std::vector<std::int64_t>> shapes_;
    std::map<std::string, void*> addresses_;
};

class ICudaEngine {
public:
    Network network;

    int getNbOptimizationProfiles() const { return 2; }
    int getNbIOTensors() const { return static_cast<int>(network.tensors.size()); }
    const char* getIOTensorName(int index) const { return network.tensors[index].name.c_str(); }
    std::int64_t getDeviceMemorySizeV2() const { return kScratch; }

    TensorIOMode getTensorIOMode(const char* name) const {
        return network.tensor(name).is_input ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
    }

    DataType getTensorDataType(const char* name) const {
        switch (network.tensor(name).type) {
            case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8: return DataType::kUINT8;
            case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32: return DataType::kINT32;
            case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16: return DataType::kHALF;
            default: return DataType::kFLOAT;
        }
    }

    Dims getTensorShape(const char* name) const {
        Dims dims;
        for (const std::int64_t size : network.tensor(name).shape) dims.d[dims.nbDims++] = size;
        return dims;
    }

    Dims getProfileShape(const char* name, int profile, OptProfileSelector which) const {
        Dims dims = getTensorShape(name);
        const auto [least, most] = network.profiles[profile];
        dims.d[0] = !network.has_batch(name) ? network.most() : which == OptProfileSelector::kMIN ? least : most;
        return dims;
    }

    IExecutionContext* createExecutionContext(ExecutionContextAllocationStrategy) {
        return new IExecutionContext(network);
    }
};

class IRuntime {
public:
    explicit IRuntime(ILogger& logger) : logger_(logger), environment_(ORT_LOGGING_LEVEL_ERROR, "stand-in") {}

    ICudaEngine* deserializeCudaEngine(const void* plan, std::size_t bytes) {
        std::istringstream text(std::string(static_cast<const char*>(plan), bytes));
        auto engine = std::make_unique<ICudaEngine>();
        Network& network = engine->network;
        std::string file;
        int least = 0, middle = 0, most = 0, patches = 0;
        if (!(text >> file >> network.batch_input >> least >> middle >> most >> patches)) {
            logger_.log(ILogger::Severity::kERROR, "not a plan");
            return nullptr;
        }
        network.profiles[0] = {least, middle};
        network.profiles[1] = {middle + 1, most};
        network.session = std::make_unique<Ort::Session>(environment_, file.c_str(), Ort::SessionOptions());
        const Ort::AllocatorWithDefaultOptions allocator;
        const auto add = [&](const std::string& name, bool is_input, const Ort::TypeInfo& type) {
            const auto info = type.GetTensorTypeAndShapeInfo();
            network.tensors.push_back({name, is_input, info.GetShape(), info.GetElementType()});
            if (name == "patches") network.tensors.back().shape[1] = patches;
        };
        for (std::size_t index = 0; index < network.session->GetInputCount(); ++index) {
            const auto name = network.session->GetInputNameAllocated(index, allocator);
            add(name.get(), true, network.session->GetInputTypeInfo(index));
        }
        for (std::size_t index = 0; index < network.session->GetOutputCount(); ++index) {
            const auto name = network.session->GetOutputNameAllocated(index, allocator);
            add(name.get(), false, network.session->GetOutputTypeInfo(index));
        }
        return engine.release();
    }

private:
    ILogger& logger_;
    Ort::Env environment_;
};

inline IRuntime* createInferRuntime(ILogger& logger) { return new IRuntime(logger); }

}  // namespace nvinfer1
