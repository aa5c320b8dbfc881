package bench

func validity() Experiment  { e := tagging(); e.Name = "validity"; return e }
func interrupt() Experiment { e := tagging(); e.Name = "interrupt"; return e }
func sweep() Experiment     { e := tagging(); e.Name = "sweep"; return e }
func overhead() Experiment  { e := tagging(); e.Name = "overhead"; return e }
func peers() Experiment     { e := tagging(); e.Name = "peers"; return e }
