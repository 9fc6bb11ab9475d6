#include "sharpose.hpp"

#include <json/json.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>

namespace sharpose {

namespace {

constexpr const char* kBundle = "a bundle written by sharpose-export";
constexpr int kPatch = 16;           // side of a patch in pixels
constexpr int kRegion = 2 * kPatch;  // side of a region in crop pixels: two fine patches
constexpr int kPatchBytes = kPatch * kPatch * 3;
constexpr float kFarthest = 1e12F;  // picture pixels; beyond, float32 sizes overflow

// A JSON file whose values are looked up by their path, such as "gate.quality_threshold".
class Document {
public:
    Document(const std::filesystem::path& file, const std::string& expected) : file_(file.string()) {
        std::ifstream stream(file);
        if (!stream) fail("can't be read; expected " + expected);
        Json::CharReaderBuilder builder;
        builder["allowSpecialFloats"] = true;  // reports of an export may hold NaN
        std::string problem;
        if (!Json::parseFromStream(builder, stream, &root_, &problem) || !root_.isObject()) fail("not JSON " + problem);
    }

    bool has(const std::string& key) const { return !root_[key].isNull(); }

    Json::Value at(const std::string& path) const {
        Json::Value value = Json::Path("." + path).resolve(root_);
        if (value.isNull()) fail(path + ": missing");
        return value;
    }

    std::string text(const std::string& path) const {
        const Json::Value value = at(path);
        if (!value.isString()) fail(path + ": expected text");
        return value.asString();
    }

    double number(const std::string& path) const {
        const Json::Value value = at(path);
        if (!value.isNumeric()) fail(path + ": expected a number");
        return value.asDouble();
    }

    int whole(const std::string& path, int least, int most) const {
        const Json::Value value = at(path);
        if (!value.isInt() || value.asInt() < least || value.asInt() > most) {
            const std::string range = std::to_string(least) + (most == least ? "" : " to " + std::to_string(most));
            fail(path + ": expected " + range + ", got " + value.toStyledString());
        }
        return value.asInt();
    }

    [[noreturn]] void fail(const std::string& what) const { throw Error(file_ + ": " + what); }

private:
    std::string file_;
    Json::Value root_;
};

std::vector<double> read_shares(const Document& manifest, const std::string& path) {
    std::vector<double> shares;
    for (const Json::Value& value : manifest.at(path)) {
        const double share = value.isNumeric() ? value.asDouble() : NAN;
        if (!(share >= 0 && share <= 1)) manifest.fail(path + ": expected numbers from 0 to 1");
        shares.push_back(share);
    }
    return shares;
}

ScoreTable read_table(const Document& manifest, const std::string& path) {
    const ScoreTable table{read_shares(manifest, path + ".raw"), read_shares(manifest, path + ".probability")};
    if (table.raw.empty() || table.raw.size() != table.probability.size() ||
        !std::is_sorted(table.raw.begin(), table.raw.end())) {
        manifest.fail(path + ": expected as many probabilities as raw scores, ascending");
    }
    return table;
}

// The table of each keypoint, of those that stand at `path`.
std::vector<ScoreTable> read_tables(const Document& manifest, const std::string& path,
                                    const std::vector<std::string>& keypoints) {
    std::vector<ScoreTable> tables(keypoints.size());
    const unsigned count = manifest.at(path).size();
    for (unsigned index = 0; index < count; ++index) {
        const std::string place = path + "[" + std::to_string(index) + "]";
        const ScoreTable table = read_table(manifest, place);
        for (const Json::Value& name : manifest.at(place + ".keypoints")) {
            const auto found = std::find(keypoints.begin(), keypoints.end(), name.asString());
            if (found == keypoints.end()) manifest.fail(place + ": no keypoint " + name.asString() + " in the skeleton");
            tables[found - keypoints.begin()] = table;
        }
    }
    for (std::size_t joint = 0; joint < keypoints.size(); ++joint) {
        if (tables[joint].raw.empty()) manifest.fail(path + ": none for " + keypoints[joint]);
    }
    return tables;
}

// A number as a user writes it.
double parse_number(const std::string& what, const std::string& text) {
    char* end = nullptr;
    const double value = std::strtod(text.c_str(), &end);
    if (text.empty() || *end != '\0' || std::isnan(value)) {
        throw Error(what + ": expected a number, got '" + text + "'");
    }
    return value;
}

Box parse_box(const std::string& text) {
    std::vector<float> sides;
    for (std::size_t start = 0; start <= text.size();) {
        const std::size_t end = std::min(text.find(',', start), text.size());
        sides.push_back(static_cast<float>(parse_number("box " + text, text.substr(start, end - start))));
        start = end + 1;
    }
    if (sides.size() != 4) throw Error("box " + text + ": expected X1,Y1,X2,Y2 in pixels");
    const Box box{sides[0], sides[1], sides[2], sides[3]};
    for (const float side : sides) {
        if (!(std::abs(side) <= kFarthest)) throw Error("box " + text + ": expected pixels within 1e12");
    }
    if (box.x2 < box.x1 || box.y2 < box.y1) throw Error("box " + text + ": expected X1 <= X2 and Y1 <= Y2");
    return box;
}

// The next number of a PPM header; what follows a # is a comment.
int ppm_number(std::istream& stream, const std::filesystem::path& file) {
    while (stream >> std::ws && stream.peek() == '#') stream.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
    int number = 0;
    if (!(stream >> number) || number < 1 || number > 65535) {
        throw Error(file.string() + ": expected a PPM header of numbers from 1 to 65535");
    }
    return number;
}

// One axis of the map from crop pixels back to picture pixels: step * pixel + first, the inverse of the crop's matrix.
struct Axis {
    float step, first;

    Axis(double size, double center, int crop_size) {
        // The centres of the corner pixels coincide. The matrix is float32.
        const double scale = (crop_size - 1) / size;
        const float shift = static_cast<float>(scale * (0.5 * size - center));
        const double inverse = 1 / static_cast<double>(static_cast<float>(scale));
        step = static_cast<float>(inverse);
        first = static_cast<float>(-inverse * shift);
    }
};

// Make a pose's scores probabilities, where the bundle has tables for it.
void calibrate(const Bundle& bundle, Pose& pose) {
    if (!bundle.scores) return;
    const std::vector<ScoreTable>& tables = pose.refined ? bundle.scores->fine : bundle.scores->coarse;
    double sum = 0, squares = 0;
    for (std::size_t joint = 0; joint < pose.keypoints.size(); ++joint) {
        float& score = pose.keypoints[joint].score;
        sum += score;
        squares += double(score) * score;
        score = static_cast<float>(tables[joint](score));
    }
    pose.confidence = static_cast<float>(bundle.scores->person(sum > 0 ? squares / sum : 0));
}

std::string one_line(std::string text) {
    std::replace(text.begin(), text.end(), '\n', ' ');
    return text.erase(text.find_last_not_of(' ') + 1);
}

}  // namespace

Bundle open_bundle(const std::filesystem::path& folder, const std::string& precision, double alpha) {
    const Document manifest(folder / "bundle.json", kBundle);
    manifest.whole("schema_version", 1, 1);
    const Json::Value graphs = manifest.at("graphs");
    if (!graphs.isMember(precision)) {
        std::string held;
        for (const std::string& name : graphs.getMemberNames()) held += (held.empty() ? "" : ", ") + name;
        manifest.fail("holds " + held + " graphs, not " + precision);
    }
    Bundle bundle;
    bundle.folder = folder;
    bundle.precision = precision;
    bundle.coarse = folder / manifest.text("graphs." + precision + ".coarse.file");
    bundle.fine = folder / manifest.text("graphs." + precision + ".fine.file");
    for (const Json::Value& name : manifest.at("model.skeleton.keypoints")) bundle.keypoints.push_back(name.asString());
    bundle.crop_height = manifest.whole("model.crop_size[0]", kRegion, 2048);
    bundle.crop_width = manifest.whole("model.crop_size[1]", kRegion, 2048);
    if (bundle.crop_height % kRegion || bundle.crop_width % kRegion) {
        manifest.fail("model.crop_size: expected multiples of 32, got " + std::to_string(bundle.crop_height) + " and " +
                      std::to_string(bundle.crop_width));
    }
    const double own = manifest.number("model.alpha");
    if (!(own > 0 && own <= 1)) manifest.fail("model.alpha: expected a share above 0, at most 1");
    const double share = (alpha > 0 ? alpha : own) * bundle.regions();
    bundle.selected = static_cast<int>(std::clamp(std::ceil(share - 1e-9), 1.0, double(bundle.regions())));
    for (const Json::Value& input : manifest.at("graphs." + precision + ".fine.inputs")) {
        const Json::Value patches = input["name"] == "patches" ? input["shape"][1] : Json::Value();
        if (patches.isInt() && patches.asInt() != 4 * bundle.selected) {
            const std::string regions = "expected a share of " + std::to_string(patches.asInt() / 4) +
                                        " regions, which the " + precision + " graph has fixed, got one of " +
                                        std::to_string(bundle.selected);
            if (alpha > 0) throw Error("--alpha: " + regions + "; leave it out for " + folder.string());
            manifest.fail("model.alpha: " + regions);
        }
    }
    bundle.max_batch = manifest.whole("max_batch", 1, 4096);
    bundle.quality_threshold = static_cast<float>(manifest.number("gate.quality_threshold"));
    if (manifest.has("scores")) {
        bundle.scores = {read_tables(manifest, "scores.coarse", bundle.keypoints),
                         read_tables(manifest, "scores.fine", bundle.keypoints), read_table(manifest, "scores.person")};
    }
    return bundle;
}

std::filesystem::path engine_plan(const Bundle& bundle, const std::string& stage) {
    const std::string build = "sharpose-export --bundle DIR --tensorrt --precision " + bundle.precision;
    const Document manifest(bundle.folder / "bundle.json", kBundle);
    const Document sidecar(bundle.folder / "engines" / (stage + ".json"), "engines built by " + build);
    const Json::Value weights = manifest.at("files")[manifest.text("weights")];
    if (sidecar.text("precision") != bundle.precision || sidecar.at("weights_sha256") != weights) {
        sidecar.fail("not an engine of the bundle's " + bundle.precision + " graphs; build it: " + build);
    }
    return bundle.folder / "engines" / (stage + ".plan");
}

Picture read_ppm(const std::filesystem::path& file) {
    std::ifstream stream(file, std::ios::binary);
    char magic[2] = {};
    if (!stream.read(magic, 2)) throw Error(file.string() + ": can't be read; expected a PPM picture");
    if (magic[0] != 'P' || magic[1] != '6') throw Error(file.string() + ": expected a binary PPM picture (P6)");
    Picture picture;
    picture.width = ppm_number(stream, file);
    picture.height = ppm_number(stream, file);
    if (const int most = ppm_number(stream, file); most != 255) {
        throw Error(file.string() + ": expected 8 bits a sample (255), got " + std::to_string(most));
    }
    stream.get();  // one character of white space
    picture.rgb.assign(std::istreambuf_iterator<char>(stream), {});
    const std::size_t bytes = std::size_t{3} * picture.width * picture.height;
    if (picture.rgb.size() < bytes) throw Error(file.string() + ": ends before its last pixel");
    return picture;
}

Frame crop_frame(const Bundle& bundle, const Box& box) {
    const double aspect = static_cast<double>(bundle.crop_width) / bundle.crop_height;
    const double width = static_cast<double>(box.x2) - box.x1, height = static_cast<double>(box.y2) - box.y1;
    // Sizes are float32, rounded as in training.
    const auto padded = [](double size) {
        return std::max(static_cast<float>(size / 200.0) * 1.25F * 200.0F, 1.0F);
    };
    return {static_cast<float>(box.x1 + width * 0.5), static_cast<float>(box.y1 + height * 0.5),
            padded(std::max(width, aspect * height)), padded(std::max(height, width / aspect))};
}

void crop(const Bundle& bundle, const Picture& picture, const Frame& frame, std::uint8_t* out) {
    const Axis across(frame.width, frame.center_x, bundle.crop_width);
    const Axis down(frame.height, frame.center_y, bundle.crop_height);
    // Rounded as in OpenCV 5, so that crops are the same to the last bit.
    std::vector<float> places(bundle.crop_width);
    for (int column = 0; column < bundle.crop_width; ++column) {
        places[column] = std::fma(across.step, static_cast<float>(column), across.first);
    }
    const auto pixel = [&](int x, int y, int channel) -> float {
        if (x < 0 || y < 0 || x >= picture.width || y >= picture.height) return 0;
        return picture.rgb[(static_cast<std::size_t>(y) * picture.width + x) * 3 + channel];
    };
    for (int row = 0; row < bundle.crop_height; ++row) {
        const float y = down.step * row + down.first;
        for (int column = 0; column < bundle.crop_width; ++column, out += 3) {
            const float x = places[column];
            if (!(x > -1 && y > -1 && x < picture.width && y < picture.height)) {
                std::fill_n(out, 3, std::uint8_t{0});
                continue;
            }
            const int left = static_cast<int>(std::floor(x)), top = static_cast<int>(std::floor(y));
            const float right_share = x - left, bottom_share = y - top;
            for (int channel = 0; channel < 3; ++channel) {
                const float a = pixel(left, top, channel), b = pixel(left + 1, top, channel);
                const float c = pixel(left, top + 1, channel), d = pixel(left + 1, top + 1, channel);
                const float upper = a + right_share * (b - a), lower = c + right_share * (d - c);
                out[channel] = static_cast<std::uint8_t>(std::lrint(upper + bottom_share * (lower - upper)));
            }
        }
    }
}

void gather(const Bundle& bundle, const std::uint8_t* crop, const std::int32_t* order, std::uint8_t* out) {
    const int columns = bundle.region_columns(), line = 3 * bundle.crop_width;
    for (int index = 0; index < bundle.selected; ++index) {
        const int region = order[index];
        if (region < 0 || region >= bundle.regions()) throw Error("the coarse graph gives a region that isn't there");
        const std::uint8_t* corner = crop + region / columns * kRegion * line + region % columns * kRegion * 3;
        for (int patch = 0; patch < 4; ++patch) {  // row by row
            const std::uint8_t* pixels = corner + patch / 2 * kPatch * line + patch % 2 * kPatch * 3;
            for (int row = 0; row < kPatch; ++row, out += kPatch * 3) {
                std::memcpy(out, pixels + row * line, kPatch * 3);
            }
        }
    }
}

Keypoint to_picture(const Bundle& bundle, const Frame& frame, Keypoint keypoint) {
    const float scale_x = frame.width / static_cast<float>(bundle.crop_width - 1);
    const float scale_y = frame.height / static_cast<float>(bundle.crop_height - 1);
    return {keypoint.x * scale_x + (frame.center_x - frame.width * 0.5F),
            keypoint.y * scale_y + (frame.center_y - frame.height * 0.5F), std::clamp(keypoint.score, 0.0F, 1.0F)};
}

double ScoreTable::operator()(double score) const {
    const auto above = std::upper_bound(raw.begin(), raw.end(), score);
    if (above == raw.begin()) return probability.front();
    if (above == raw.end()) return probability.back();
    const std::size_t next = above - raw.begin();
    const double share = (score - raw[next - 1]) / (raw[next] - raw[next - 1]);
    return probability[next - 1] + share * (probability[next] - probability[next - 1]);
}

std::vector<Pose> estimate(const Bundle& bundle, Stages& stages, const Picture& picture, const std::vector<Box>& boxes) {
    const std::size_t crop_bytes = std::size_t{3} * bundle.crop_height * bundle.crop_width;
    const std::size_t person_bytes = std::size_t{4} * bundle.selected * kPatchBytes;
    const std::size_t joints = bundle.keypoints.size();
    std::vector<Pose> poses;
    for (std::size_t start = 0; start < boxes.size(); start = poses.size()) {
        const int people = static_cast<int>(std::min<std::size_t>(stages.max_batch(), boxes.size() - start));
        std::vector<Frame> frames;
        std::vector<std::uint8_t> crops(people * crop_bytes);
        for (int person = 0; person < people; ++person) {
            frames.push_back(crop_frame(bundle, boxes[start + person]));
            crop(bundle, picture, frames.back(), crops.data() + person * crop_bytes);
        }

        const Coarse coarse = stages.run_coarse(crops, people);
        std::vector<Keypoint> keypoints = coarse.keypoints;
        if (keypoints.size() != people * joints || coarse.order.size() != std::size_t(people) * bundle.regions()) {
            throw Error("the coarse graph isn't the one that bundle.json describes; export it again");
        }
        std::vector<std::int32_t> rows;  // who is refined
        for (int person = 0; person < people; ++person) {
            if (coarse.quality[person] < bundle.quality_threshold) rows.push_back(person);
        }
        if (!rows.empty()) {
            std::vector<std::uint8_t> patches(rows.size() * person_bytes);
            for (std::size_t index = 0; index < rows.size(); ++index) {
                gather(bundle, crops.data() + rows[index] * crop_bytes, &coarse.order[rows[index] * bundle.regions()],
                       patches.data() + index * person_bytes);
            }
            const std::vector<Keypoint> fine = stages.run_fine(rows, patches);
            if (fine.size() != rows.size() * joints) {
                throw Error("the fine graph isn't the one that bundle.json describes; export it again");
            }
            for (std::size_t index = 0; index < rows.size(); ++index) {
                std::copy_n(&fine[index * joints], joints, &keypoints[rows[index] * joints]);
            }
        }

        for (int person = 0; person < people; ++person) {
            Pose pose{coarse.quality[person], std::find(rows.begin(), rows.end(), person) != rows.end(), NAN, {}};
            for (std::size_t joint = 0; joint < joints; ++joint) {
                pose.keypoints.push_back(to_picture(bundle, frames[person], keypoints[person * joints + joint]));
            }
            calibrate(bundle, pose);
            poses.push_back(std::move(pose));
        }
    }
    return poses;
}

constexpr const char* kUsage =
    "BUNDLE PICTURE.ppm X1,Y1,X2,Y2 ... [--precision fp32|fp16|int8] [--threshold QUALITY] [--alpha SHARE]";

int run_program(int count, char** arguments, std::unique_ptr<Stages> (*load)(const Bundle&)) {
    try {
        std::string precision = "fp32", threshold, alpha;
        std::vector<std::string> words;
        for (int index = 1; index < count; ++index) {
            const std::string word = arguments[index];
            if (word == "--help") {
                std::printf("Usage: %s %s\n", arguments[0], kUsage);
                return 0;
            }
            if (word.substr(0, 2) != "--") {
                words.push_back(word);
                continue;
            }
            std::string* const value = word == "--precision"   ? &precision
                                       : word == "--threshold" ? &threshold
                                       : word == "--alpha"     ? &alpha
                                                               : nullptr;
            if (value == nullptr) throw Error(word + ": unknown option");
            if (++index == count) throw Error(word + ": expected a value");
            *value = arguments[index];
        }
        if (words.size() < 3) {
            throw Error(std::string("expected ") + kUsage);
        }
        const double share = alpha.empty() ? 0 : parse_number("--alpha", alpha);
        if (!alpha.empty() && !(share > 0 && share <= 1)) throw Error("--alpha: expected a share above 0, at most 1");
        Bundle bundle = open_bundle(words[0], precision, share);
        if (!threshold.empty()) bundle.quality_threshold = float(parse_number("--threshold", threshold));
        const Picture picture = read_ppm(words[1]);
        std::vector<Box> boxes;
        for (std::size_t index = 2; index < words.size(); ++index) boxes.push_back(parse_box(words[index]));

        std::vector<Pose> poses;
        try {
            poses = estimate(bundle, *load(bundle), picture, boxes);
        } catch (const Error&) {
            throw;
        } catch (const std::exception& error) {  // of the library that runs the graphs
            throw Error(words[0] + ": its graphs can't be run: " + error.what());
        }
        for (std::size_t person = 0; person < poses.size(); ++person) {
            const Pose& pose = poses[person];
            std::printf("person %zu: quality %.4f, %s", person, pose.quality, pose.refined ? "refined" : "coarse");
            if (!bundle.scores) {
                std::printf(", raw scores\n");
            } else {
                std::printf(", confidence %.4f\n", pose.confidence);
            }
            for (std::size_t joint = 0; joint < pose.keypoints.size(); ++joint) {
                const Keypoint& keypoint = pose.keypoints[joint];
                std::printf("  %s %.3f %.3f %.3f\n", bundle.keypoints[joint].c_str(), keypoint.x, keypoint.y,
                            keypoint.score);
            }
        }
        return 0;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "error: %s\n", one_line(error.what()).c_str());
        return 2;
    }
}

}  // namespace sharpose
