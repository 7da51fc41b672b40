package power

// ParseHeld and ParseMark read what is kept.
var (
	ParseHeld = parseHeld
	ParseMark = parseMark
)

// KernelLinks is what Options.Links is where nothing is said.
var KernelLinks = kernelLinks
