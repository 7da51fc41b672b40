package arm

// OnStep has f called at each step of what must survive a loss of power.
func (a *Armer) OnStep(f func(step string)) { a.hook = f }
