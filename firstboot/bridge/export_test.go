package bridge

var (
	Ask    = ask
	Answer = answer
)
