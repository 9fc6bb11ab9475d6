// What both programs share: the bundle, crops, patches, and the way from boxes in a picture to poses.
// docs/bundle.md is the contract that this follows.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace sharpose {

// Something that can't be used, in one line.
struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Picture {
    int width = 0, height = 0;
    std::vector<std::uint8_t> rgb;  // row by row; in OpenCV: cv::cvtColor(picture, rgb, cv::COLOR_BGR2RGB)
};

// Picture pixels; may reach outside the picture.
struct Box {
    float x1, y1, x2, y2;
};

// x and y in pixels of the crop, later of the picture; score 0 to 1.
struct Keypoint {
    float x, y, score;
};

struct Pose {
    float quality;     // predicted, of the coarse pose; 0 to 1, similar to OKS
    bool refined;      // by the fine stage
    float confidence;  // probability that the pose is right; NaN without score tables: scores are heatmaps' peaks then
    std::vector<Keypoint> keypoints;
};

// Probability by raw score: linear between the points, constant beyond.
struct ScoreTable {
    std::vector<double> raw, probability;

    double operator()(double score) const;
};

// What makes scores probabilities.
struct ScoreTables {
    std::vector<ScoreTable> coarse, fine;  // of the J keypoints
    ScoreTable person;                     // its raw score: the mean of raw keypoint scores, weighted by themselves
};

// What bundle.json says, as far as inference needs it.
struct Bundle {
    std::filesystem::path folder;
    std::string precision;
    std::filesystem::path coarse, fine;  // the graphs of that precision
    std::vector<std::string> keypoints;  // names of the J keypoints, in order
    int crop_height, crop_width;         // pixels
    int selected;                        // K, the regions that the fine stage sees at full size
    int max_batch;
    float quality_threshold;
    std::optional<ScoreTables> scores;

    int region_columns() const { return crop_width / 32; }
    int regions() const { return crop_height / 32 * region_columns(); }  // R
};

// Read `folder`/bundle.json. `alpha` is the share of regions that the fine stage sees, the bundle's own if 0. The sha256
// of the files, which tells damaged ones, is left to Python's commands.
Bundle open_bundle(const std::filesystem::path& folder, const std::string& precision, double alpha = 0);

// The TensorRT engine of "coarse" or "fine" that `sharpose-export --bundle DIR --tensorrt` has put into the bundle,
// checked to be of these graphs and weights.
std::filesystem::path engine_plan(const Bundle& bundle, const std::string& stage);

// Binary PPM (P6) of 8 bits.
Picture read_ppm(const std::filesystem::path& file);

// The part of the picture that becomes a crop.
struct Frame {
    float center_x, center_y, width, height;  // picture pixels
};

Frame crop_frame(const Bundle& bundle, const Box& box);

// Write uint8 [H, W, 3], RGB: bilinear, black outside the picture.
void crop(const Bundle& bundle, const Picture& picture, const Frame& frame, std::uint8_t* out);

// Write uint8 [4K, 768]: the pixels of the first K regions of `order` [R].
void gather(const Bundle& bundle, const std::uint8_t* crop, const std::int32_t* order, std::uint8_t* out);

// From crop pixels to picture pixels; the score is clipped to 0 to 1.
Keypoint to_picture(const Bundle& bundle, const Frame& frame, Keypoint keypoint);

// Outputs of the coarse graph that the host reads.
struct Coarse {
    std::vector<Keypoint> keypoints;  // [N, J], crop pixels
    std::vector<float> quality;       // [N]
    std::vector<std::int32_t> order;  // [N, R], region numbers, most relevant first
};

// Both graphs on an engine. Region features and embeddings go from one to the other inside it.
class Stages {
public:
    virtual ~Stages() = default;
    virtual int max_batch() const = 0;
    // `crops` is uint8 [N, H, W, 3].
    virtual Coarse run_coarse(std::vector<std::uint8_t>& crops, int people) = 0;
    // For rows [M] of the last coarse run; `patches` is uint8 [M, 4K, 768]. Returns [M, J] in crop pixels.
    virtual std::vector<Keypoint> run_fine(std::vector<std::int32_t>& rows, std::vector<std::uint8_t>& patches) = 0;
};

std::vector<Pose> estimate(const Bundle& bundle, Stages& stages, const Picture& picture, const std::vector<Box>& boxes);

// `main` of a program: PROGRAM BUNDLE PICTURE.ppm X1,Y1,X2,Y2 ... [--precision P] [--threshold Q] [--alpha A]
int run_program(int count, char** arguments, std::unique_ptr<Stages> (*load)(const Bundle&));

}  // namespace sharpose
