package imagebuilder

import "io/fs"

// otherNames says whether a file has further names (hard links). Windows does
// not tell with the file's other particulars.
func otherNames(fs.FileInfo) bool { return false }
