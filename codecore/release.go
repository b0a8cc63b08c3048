package codecore

// version is the name of the release that this tree is, or will be: the one line
// to change when a release is cut. The builds by tag are named after it.
const version = "v0.2.0-dev"
