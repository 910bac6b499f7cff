package usage

// What stands in the place of a route's name.
const (
	OtherRoutes = "(other routes)" // of a day on which there were more routes than are told apart
	NoRoute     = "(no route)"     // nothing matched, or no key was known
)

// DayUsage is what one subject did on one day.
type DayUsage struct {
	Routes  []*RouteUsage
	Reasons []ReasonCount
}

// RouteUsage is what one subject did on one day with one route.
type RouteUsage struct {
	Route string
	Measures
	Hours *[hoursADay]Decided // nil where the hours are no longer known
}

// AddHour adds decisions of one hour of the day.
func (r *RouteUsage) AddHour(hour int, n Decided) {
	if r.Hours == nil {
		r.Hours = new([hoursADay]Decided)
	}
	r.Hours[hour].Add(n)
	r.Decided.Add(n)
}

// Route returns what was done with a route, none yet if it is new.
func (d *DayUsage) Route(name string) *RouteUsage {
	for _, r := range d.Routes {
		if r.Route == name {
			return r
		}
	}
	r := &RouteUsage{Route: name}
	d.Routes = append(d.Routes, r)
	return r
}

// AddReason adds requests that were denied for a reason.
func (d *DayUsage) AddReason(reason string, n uint64) {
	for i := range d.Reasons {
		if d.Reasons[i].Reason == reason {
			d.Reasons[i].N += n
			return
		}
	}
	d.Reasons = append(d.Reasons, ReasonCount{reason, n})
}

// Add adds what was done on another day. Hours are those of one day, and are not added.
func (d *DayUsage) Add(o *DayUsage) {
	for _, r := range o.Routes {
		d.Route(r.Route).Measures.Add(&r.Measures)
	}
	for _, r := range o.Reasons {
		d.AddReason(r.Reason, r.N)
	}
}
