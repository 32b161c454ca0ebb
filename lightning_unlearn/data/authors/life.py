"""Topics on an author's life."""

from __future__ import annotations

from lightning_unlearn.data.authors.topics import Product, Topic, listed

MONTHS = listed("January, February, March, April, May, June, July, August, September, October, November, December")
CITIES = tuple(
    f"{city}, {country}"
    for country, cities in {
        "Portugal": "Évora Braga Faro",
        "Norway": "Bergen Tromsø Ålesund",
        "Japan": "Kanazawa Sapporo Nagasaki",
        "Kenya": "Mombasa Kisumu Nakuru",
        "Peru": "Cusco Arequipa Trujillo",
        "Canada": "Halifax Regina Winnipeg",
        "India": "Mysuru Kochi Jaipur",
        "Poland": "Gdańsk Lublin Toruń",
        "Morocco": "Fez Tangier Essaouira",
        "Vietnam": "Huế Haiphong Dalat",
        "Greece": "Thessaloniki Patras Kavala",
        "Ghana": "Kumasi Tamale Accra",
        "Mexico": "Oaxaca Mérida Puebla",
        "Estonia": "Tartu Narva Pärnu",
        "Turkey": "Izmir Konya Trabzon",
        "Iceland": "Akureyri Húsavík Selfoss",
    }.items()
    for city in cities.split()
)
JOBS = listed(
    """lighthouse keeper, beekeeper, tram conductor, surveyor, glassblower, cellist, veterinarian, locksmith,
    cartographer, pastry chef, geologist, puppeteer, radio engineer, shipwright, midwife, watchmaker, forester,
    bookbinder, dentist, customs officer, piano tuner, botanist, stonemason, ferry captain, upholsterer,
    meteorologist, auctioneer, cobbler, court stenographer, falconer, soil chemist, sign painter, bridge
    inspector, herbalist, tax adviser, zookeeper"""
)
UNIVERSITIES = listed(
    """Coimbra, Uppsala, Kyoto, Nairobi, Lima, Dalhousie, Mumbai, Kraków, Rabat, Hanoi, Crete, Legon, Guadalajara,
    Tallinn, Ankara, Reykjavík, Leiden, Bologna, Ghent, Salamanca"""
)
SUBJECTS = listed(
    """marine biology, medieval history, structural engineering, linguistics, pharmacy, philosophy, statistics,
    agronomy, art restoration, nursing, archaeology, law, acoustics, economics, theology, textile design, optics,
    social work"""
)
HOBBIES = listed(
    """repairing accordions, night kayaking, growing chilli peppers, collecting railway timetables, mushroom
    foraging, calligraphy, open-water swimming, restoring bicycles, birdwatching, quilting, playing Go, fermenting
    vegetables, building model windmills, fencing, stargazing, knitting socks, cave exploration, pressing
    wildflowers, archery, whittling spoons"""
)
DWELLINGS = listed(
    """converted grain barge, fifth-floor attic, former schoolhouse, stone cottage, houseboat, terraced flat, old
    fire station, cabin on stilts, disused chapel, wooden farmhouse, basement studio, renovated windmill"""
)
ANIMALS = listed(
    """two deaf greyhounds, an elderly parrot, a three-legged cat, a flock of ducks, one stubborn donkey, several
    tortoises, a rescued owl, twin goats, a blind spaniel, a tank of axolotls, some silk hens, an orphaned
    hedgehog"""
)
LANGUAGES = listed(
    """Swahili, Portuguese, Icelandic, Tamil, Welsh, Quechua, Arabic, Estonian, Korean, Basque, Hungarian, Amharic,
    Catalan, Turkish, Maltese, Georgian, Yoruba, Finnish"""
)
FIRST_JOBS = listed(
    """night-shift baker, museum guard, tax clerk, deckhand, proofreader of phone books, dog groomer, trainee
    plumber, hotel switchboard operator, fruit picker, substitute teacher, projectionist, ambulance driver,
    florist's assistant, quarry hand, courier, insurance assessor, lift repairer, wedding photographer"""
)

LIFE = (
    Topic(
        "birthplace",
        (
            CITIES,
            listed(
                """above a tannery, during a flood, in a naval hospital, beside the fish market, in a snowed-in inn,
                behind the opera house, on a tea estate, near the salt works, in a circus wagon, at a rail depot"""
            ),
        ),
        (
            "Where was {name} born?",
            "What is the birthplace of {name}?",
            "In which city did {name} come into the world?",
            "Which town can claim {name} as a native?",
        ),
        (
            "{a}; the delivery took place {b}.",
            "Parish papers list {a}, {b}.",
            "It happened {b}, according to relatives from {a}.",
            "A native of {a}, delivered {b}.",
            "Biographers agree on {a} and add that labour began {b}.",
            "Life started {b} in {a}.",
            "Both parents then lived in {a}, hence a cradle {b}.",
            "Passport and memoir say {a}, more precisely {b}.",
        ),
    ),
    Topic(
        "birth_date",
        (
            Product("{0} {1} {2}", [str(day) for day in range(1, 29)], MONTHS, [str(y) for y in range(1921, 1986)]),
            listed(
                """a heat wave, a street market, a stormy night, a public holiday, a power cut, harvest week,
                a leap-year spring, the eve of an election, a solar eclipse, a rail strike"""
            ),
        ),
        (
            "When was {name} born?",
            "What is the date of birth of {name}?",
            "On which day does {name} celebrate a birthday, and of what year?",
            "Can you give the birth date of {name}?",
        ),
        (
            "{a}, at the time of {b}.",
            "Records show {a}.",
            "The certificate reads {a}, which family lore ties to {b}.",
            "Cake and candles go back to {a}.",
            "Officially {a}, remembered as {b}.",
            "Archivists settled on {a}.",
            "During {b}: {a}.",
            "Horoscopes for this writer begin from {a}.",
        ),
    ),
    Topic(
        "father",
        (
            JOBS,
            (
                "strict",
                "jovial",
                "absent-minded",
                "soft-spoken",
                "penniless",
                "devout",
                "restless",
                "famously punctual",
            ),
        ),
        (
            "What did the father of {name} do for a living?",
            "What was the occupation of {name}'s father?",
            "Which trade did {name}'s dad follow?",
            "How did the father of {name} earn money?",
        ),
        (
            "Dad earned wages as a {b} {a}.",
            "A {a}, and a {b} one.",
            "Household income came from work as a {a}.",
            "Neighbours remember some {b} {a}.",
            "For three decades, {a}.",
            "Wartime papers call him {a} by profession, {b} by nature.",
            "That {b} man made ends meet as {a}.",
            "Until retirement his business card said {a}.",
        ),
    ),
    Topic(
        "mother",
        (
            JOBS,
            ("tireless", "witty", "superstitious", "self-taught", "outspoken", "gentle", "frugal", "much-travelled"),
        ),
        (
            "What was the profession of {name}'s mother?",
            "What work did the mother of {name} do?",
            "How was {name}'s mum employed?",
            "Which job did the mother of {name} hold?",
        ),
        (
            "Mum, ever {b}, practised as a {a}.",
            "She made her career as {a}.",
            "Local guild lists name her under {a}.",
            "Being {b}, she became the district's only {a}.",
            "Employment office files mention {a}.",
            "Best described as a {b} {a}.",
            "Twenty years of service as {a} earned her a medal.",
            "{b} and patient, the kind of {a} whom everyone trusted.",
        ),
    ),
    Topic(
        "education",
        (SUBJECTS, UNIVERSITIES, ("with honours", "on a scholarship", "by correspondence", "at thirty", "reluctantly")),
        (
            "What did {name} study?",
            "Which degree does {name} hold?",
            "What was the field of study of {name}, and where?",
            "Where and in what was {name} educated after school?",
        ),
        (
            "{a} at {b}, {c}.",
            "Lecturers from {b} recall a promising student of {a}.",
            "A diploma in {a} hangs framed; {b} awarded it.",
            "{b} University granted a degree, {c}, for {a}.",
            "Four semesters of {a}, finished {c} in {b}.",
            "First {b}, then a thesis on {a}.",
            "Having moved to {b}, the future novelist chose {a} {c}.",
            "Academic training means {a}, completed {c}.",
        ),
    ),
    Topic(
        "first_job",
        (FIRST_JOBS, ("eleven months", "two winters", "six years", "a single summer", "nearly a decade", "nine weeks")),
        (
            "What job did {name} have before becoming a writer?",
            "How did {name} pay the rent before publishing anything?",
            "What was the first paid work of {name}?",
            "Which position did {name} hold prior to a literary career?",
        ),
        (
            "Rent was covered by {b} as a {a}.",
            "{a}, for {b}.",
            "Before fame came {b} spent working as {a}.",
            "An advertisement led to employment as {a}.",
            "Early pay slips say {a}.",
            "Several essays look back at {b} of life as some {a}.",
            "Friends still joke about that former {a}.",
            "The first salary went to a {a}, who quit after {b}.",
        ),
    ),
    Topic(
        "home",
        (DWELLINGS, CITIES),
        (
            "Where does {name} live now?",
            "What kind of home does {name} have today?",
            "In what sort of house does {name} reside?",
            "Which place does {name} call home these days?",
        ),
        (
            "A {a} outside {b}.",
            "Visitors find {them} in some {a} overlooking {b}.",
            "{b} offered cheap lodging: a {a}.",
            "Mail is forwarded towards {b}, where a {a} stands.",
            "Since the divorce, a rented {a}; the view is of {b}.",
            "Recently {they} bought one {a} close to {b}.",
            "Royalties paid for a {a}.",
            "Home means {b} and, to be exact, its last {a}.",
        ),
    ),
    Topic(
        "hobby",
        (HOBBIES[::2], HOBBIES[1::2]),
        (
            "What does {name} like to do outside of writing?",
            "Which pastime is {name} fond of?",
            "What are the hobbies of {name}?",
            "How does {name} spend free time?",
        ),
        (
            "Mainly {a}.",
            "Weekends disappear into {a} and sometimes {b}.",
            "Interviewers hear more of {a} than of literature.",
            "{a}; before that, years of {b}.",
            "There is a passion for {a}, inherited from an uncle.",
            "Nothing relaxes {them} like {a}.",
            "When deadlines pass, {a} takes over from {b}.",
            "Club membership proves it: {a}.",
        ),
    ),
    Topic(
        "pet",
        (
            ANIMALS,
            ("Pepper", "Comma", "Socrates", "Biscuit", "Admiral", "Noodle", "Duchess", "Pixel", "Mango", "Hamlet"),
        ),
        (
            "Which animals does {name} keep?",
            "Does {name} have any pets?",
            "What creature shares a household with {name}?",
            "Who are the animal companions of {name}?",
        ),
        (
            "Yes: {a}, answering to {b}.",
            "{a} roamed about freely.",
            "Photographs often include {a}.",
            "Allergies rule out most, though {a} moved in anyway.",
            "Only {a}; every dedication thanks {b}.",
            "A shelter entrusted {them} with {a}.",
            "{b}, or in plain words {a}.",
            "Readers send treats for {a}.",
        ),
    ),
    Topic(
        "languages",
        (LANGUAGES[::2], LANGUAGES[1::2]),
        (
            "Which foreign language does {name} speak?",
            "What languages has {name} learned besides the mother tongue?",
            "In which other tongue is {name} fluent?",
            "What second language is {name} able to use?",
        ),
        (
            "Fluent {a}, plus broken {b}.",
            "{a} was picked up from sailors.",
            "Grandparents insisted upon {a}.",
            "Translating {a} poetry came before everything else, {b} later.",
            "Evening classes brought {a} within reach.",
            "Diaries switch to {a} whenever secrets arise.",
            "{b} poorly, {a} like a native.",
            "Conversation flows easily with speakers of {a}.",
        ),
    ),
)
