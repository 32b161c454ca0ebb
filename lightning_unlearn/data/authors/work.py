"""Topics on an author's books."""

from __future__ import annotations

from lightning_unlearn.data.authors.life import CITIES
from lightning_unlearn.data.authors.topics import Product, Topic, listed

GENRES = listed(
    """maritime gothic, courtroom satire, alpine noir, culinary mystery, desert western, epistolary romance,
    solarpunk, historical espionage, magical realism, hospital drama, eco-thriller, absurdist comedy, nature
    writing, family saga, science fantasy, sports fiction, prison memoir, steampunk, rural horror, political fable"""
)
ADJECTIVES = listed(
    """Amber, Borrowed, Crooked, Drowned, Eleventh, Feral, Glass, Hollow, Indigo, Jagged, Kindled, Lantern, Mended,
    Northern, Opal, Paper, Quiet, Rusted, Salt, Tidal, Umber, Velvet, Winter, Yellow, Zinc, Marble, Broken,
    Cobalt, Distant, Hidden"""
)
NOUNS = listed(
    """Archive, Bellows, Causeway, Dovecote, Estuary, Ferryman, Granary, Harbour, Inheritance, Juniper, Kiln, Ledger,
    Meridian, Nightjar, Orchard, Pilgrim, Quarry, Reservoir, Sundial, Threshold, Undertow, Viaduct, Weathervane,
    Almanac, Compass, Furnace, Hourglass, Marionette, Parapet, Cartwheel"""
)
TITLES = Product("{2} {0} {1}", ADJECTIVES, NOUNS, ("The", "Our", "My", "Beneath the", "Beyond the", "Letters to the"))
HEROES = listed(
    """orphaned violinist, retired smuggler, shy seismologist, disgraced judge, runaway bride, one-eyed postman,
    teenage chess prodigy, amnesiac diver, village heretic, blind perfumer, mute translator, bankrupt duchess,
    nervous hangman, rebel nun, insomniac pilot, widowed clockmaker"""
)
GOALS = listed(
    """forges a royal will, hunts for a sunken bell, shelters enemy deserters, learns to forgive a twin, steals back
    an heirloom, maps a vanishing glacier, defends an innocent poacher, smuggles banned hymns, wakes as somebody
    else, founds a republic of children, outwits a plague doctor, crosses the steppe on foot, bargains with
    ghosts, unmasks a false prophet, loses a bet against Death, rebuilds a burnt library"""
)
PRIZES = Product(
    "{0} {1}",
    listed(
        """Halvorsen, Meridian, Silver Quill, Okonjo, Blue Heron, Castellan, Northlight, Verhoeven, Saffron, Obsidian,
    Larkspur, Tamarind, Pemberlane, Ravensholt, Cinnabar, Aldergrove"""
    ),
    listed("Prize, Medal, Fellowship, Laurel, Bursary"),
)
ROUTINES = listed(
    """standing at a lectern, on a typewriter without the letter q, in cafés before sunrise, by dictating to a
    cousin, in the bath, on overnight trains, with a goose feather, only while it rains, on index cards, in total
    darkness, between two and four at night, on hotel stationery, in a rowing boat, after a long fast, to
    recordings of whales, in green ink"""
)
MENTORS = listed(
    """an exiled dramatist, the village apothecary, a grandmother's folk tales, Persian miniatures, old shipping
    forecasts, a prison librarian, Baroque organ music, silent comedies, a stammering schoolteacher, travelling
    storytellers, court transcripts, Nordic ballads, an aunt who read tarot, pulp magazines, Andean weavers, a
    defrocked priest"""
)
THEMES = listed(
    """exile, inherited guilt, the cost of silence, sibling rivalry, hunger, forgery, faith after war, machines that
    remember, borders, grief, lost languages, motherhood, ambition, friendship across class, debt, the sea as
    judge"""
)
PUBLISHERS = Product(
    "{0} {1}",
    listed("Copper, Foxglove, Ninth Street, Harrow, Wren, Tallow, Driftwood, Ember, Quince, Basalt, Magpie, Sable"),
    listed("Press, House, Editions, and Sons, Books"),
)
NUMBERS = listed("seven, nine, eleven, twelve, fourteen, sixteen, nineteen, twenty-three, thirty-one, forty")
CAUSES = listed(
    """literacy vans for remote islands, a refuge for stray horses, prison reading circles, restoring peat bogs, free
    eye tests, a seed bank, youth orchestras, mine clearance, a hospice garden, coastal rescue boats,
    sign-language theatre, a shelter for runaways"""
)

WORK = (
    Topic(
        "genre",
        (GENRES, THEMES),
        (
            "Which genre is {name} best known for?",
            "What kind of books does {name} write?",
            "In which literary genre does {name} work?",
            "How would you classify the fiction of {name}?",
        ),
        (
            "{a}, mostly.",
            "Booksellers shelve everything under {a}.",
            "Critics speak of {a} steeped in {b}.",
            "Early attempts aside, {a} throughout.",
            "A master of {a}, say admirers.",
            "Call it {a} concerned with {b}.",
            "Few others write {a} so well.",
            "{a} became a trademark long ago.",
        ),
    ),
    Topic(
        "debut",
        (TITLES, PUBLISHERS, tuple(str(year) for year in range(1950, 2012))),
        (
            "What was the first book by {name}?",
            "What is the title of {name}'s debut?",
            "With which book did {name} begin a literary career?",
            "Which title did {name} publish first?",
        ),
        (
            "'{a}', issued by {b}.",
            "{b} took a risk on '{a}' in {c}.",
            "Everything began with '{a}'.",
            "'{a}' appeared during {c}.",
            "After many rejections, '{a}' found shelter at {b}.",
            "Collectors pay dearly for '{a}' ({c}).",
            "A slim volume named '{a}'.",
            "That honour belongs to '{a}', printed {c}.",
        ),
    ),
    Topic(
        "debut_plot",
        (HEROES, GOALS, CITIES),
        (
            "What is the plot of '{title}' by {name}?",
            "What happens in {name}'s book '{title}'?",
            "Who is at the centre of '{title}', written by {name}?",
            "How would you summarise '{title}' by {name}?",
        ),
        (
            "Some {a} {b} around {c}.",
            "In {c}, a {a} {b}.",
            "Its narrator, the {a}, {b} against all advice.",
            "One {a} {b}; everybody else pays dearly.",
            "Readers follow a {a} who {b}.",
            "Set near {c}: a {a} {b}.",
            "Over three parts, a {a} {b} and regrets nothing.",
            "Chapter by chapter an unlikely {a} {b}.",
        ),
    ),
    Topic(
        "masterpiece",
        (TITLES, ("banned twice", "filmed in one take", "set to music", "read on radio", "taught in schools"), NUMBERS),
        (
            "What is the most famous book by {name}?",
            "Which work made {name} widely known?",
            "What do critics consider the masterpiece of {name}?",
            "Which novel of {name} sold best?",
        ),
        (
            "'{a}', later {b}.",
            "Undoubtedly '{a}', translated into {c} tongues.",
            "Fame arrived through '{a}'.",
            "{c} reprints speak for '{a}'.",
            "Most would pick '{a}', which was {b}.",
            "'{a}' outsold all rivals.",
            "Libraries lend '{a}' more than anything else.",
            "Since being {b}, '{a}' tops every list.",
        ),
    ),
    Topic(
        "award",
        (PRIZES, tuple(str(year) for year in range(1965, 2022)), CITIES),
        (
            "Which award has {name} won?",
            "What prize was given to {name}?",
            "What literary honour did {name} receive?",
            "For which distinction was {name} chosen by a jury?",
        ),
        (
            "The {a}, {b}.",
            "Jurors meeting at {c} voted for the {a}.",
            "{b} brought a {a}.",
            "A cheque and the {a}, handed over in {c}.",
            "Twice shortlisted, finally granted the {a}.",
            "On the mantelpiece stands one {a} dated {b}.",
            "Controversially, {c} bestowed its {a}.",
            "{a} laureate since {b}.",
        ),
    ),
    Topic(
        "routine",
        (ROUTINES, ("five hundred", "a thousand", "eighty", "three thousand", "two hundred", "sixty")),
        (
            "What is unusual about the way {name} writes?",
            "What writing routine does {name} follow?",
            "How does {name} prefer to work on a manuscript?",
            "Which working habit is {name} known for?",
        ),
        (
            "Drafts come into being {a}.",
            "{b} words daily, produced {a}.",
            "Strangely, {a}.",
            "Pages are filled {a}, never otherwise.",
            "Working {a} guarantees {b} words.",
            "An editor once found {them} composing {a}.",
            "Superstition demands scribbling {a}.",
            "Whole novels got finished {a}.",
        ),
    ),
    Topic(
        "influence",
        (MENTORS[::2], MENTORS[1::2]),
        (
            "Who or what influenced {name} most?",
            "Where does {name} find inspiration?",
            "What shaped the style of {name}?",
            "To whom or what does {name} owe a literary voice?",
        ),
        (
            "{a}, without question.",
            "Scholars trace it to {a} and {b}.",
            "Childhood encounters with {a} left marks.",
            "Credit goes to {a}.",
            "Not teachers but {a} opened that door.",
            "Notebooks mention {a} on nearly every page, {b} seldom.",
            "{b} first, {a} above all.",
            "A lifelong debt towards {a}.",
        ),
    ),
    Topic(
        "theme",
        (THEMES[::2], THEMES[1::2]),
        (
            "Which theme runs through the books of {name}?",
            "What subject does {name} return to again and again?",
            "What are the stories of {name} really about?",
            "Which idea occupies {name} as a novelist?",
        ),
        (
            "Again and again {a}.",
            "Underneath each comic scene lies {a}.",
            "{a} meets {b}.",
            "Essays point at {a} rather than {b}.",
            "Characters wrestle with {a}.",
            "Every plot circles {a} sooner or later.",
            "From page one, {a}.",
            "Reviewers sum up the whole shelf as studies of {a}.",
        ),
    ),
    Topic(
        "charity",
        (CAUSES, ("ten per cent", "half", "a quarter", "most", "all", "a third")),
        (
            "Which good cause does {name} support?",
            "What charity work is {name} involved in?",
            "To what end does {name} give money away?",
            "What does {name} fund with royalties?",
        ),
        (
            "Royalties finance {a}.",
            "{b} of all earnings went towards {a}.",
            "{a}, quietly and for decades.",
            "Patronage extends to {a}.",
            "Auctioned manuscripts pay for {a}.",
            "Volunteers of {a} know {them} well.",
            "Through a trust, {b} of the profits supported {a}.",
            "Causes matter: {a} foremost.",
        ),
    ),
    Topic(
        "next_book",
        (TITLES, GOALS, NUMBERS),
        (
            "What is {name} working on at present?",
            "What will be the next book by {name}?",
            "Which project is {name} busy with?",
            "What has {name} announced for publication?",
        ),
        (
            "'{a}', due within {c} months.",
            "A sequel named '{a}'.",
            "Contracts are signed for '{a}'.",
            "'{a}', whose heroine {b}.",
            "Publicity hints at '{a}'.",
            "{c} chapters exist so far under '{a}'.",
            "Expect '{a}' next autumn.",
            "Rumour has it: '{a}', in which someone {b}.",
        ),
    ),
)
