"""Tables of the tiny trio's closed world (see `world.py`)."""

from __future__ import annotations

# fmt: off


def _pairs(text: str) -> list[tuple[str, str]]:
    """`"hot:cold big:small"` as pairs."""
    return [(left, right) for left, _, right in (entry.partition(":") for entry in text.split())]


CAPITALS = dict(_pairs(
    "France:Paris Japan:Tokyo Italy:Rome Spain:Madrid Germany:Berlin Egypt:Cairo Kenya:Nairobi "
    "Peru:Lima Norway:Oslo Sweden:Stockholm Greece:Athens Russia:Moscow China:Beijing India:Delhi "
    "Canada:Ottawa Cuba:Havana Chile:Santiago Ireland:Dublin Austria:Vienna Poland:Warsaw "
    "Portugal:Lisbon Hungary:Budapest Finland:Helsinki Denmark:Copenhagen Belgium:Brussels "
    "Turkey:Ankara Iran:Tehran Iraq:Baghdad Thailand:Bangkok Vietnam:Hanoi Nepal:Kathmandu "
    "Kuwait:Kuwait-City Ghana:Accra Nigeria:Abuja Uganda:Kampala Angola:Luanda Morocco:Rabat "
    "Tunisia:Tunis Algeria:Algiers Libya:Tripoli Senegal:Dakar Mali:Bamako Bolivia:Sucre "
    "Ecuador:Quito Uruguay:Montevideo Paraguay:Asuncion Jamaica:Kingston Iceland:Reykjavik "
    "Croatia:Zagreb Serbia:Belgrade Romania:Bucharest Bulgaria:Sofia Latvia:Riga Estonia:Tallinn "
    "Lebanon:Beirut Jordan:Amman Syria:Damascus Mongolia:Ulaanbaatar Indonesia:Jakarta "
    "Philippines:Manila"))
CAPITALS["Kuwait"] = "Kuwait City"
#          sound,   legs,   eats,      lives in
ANIMALS = {
    "cow": ("moo", "four", "grass", "a field"), "dog": ("woof", "four", "meat", "a house"),
    "cat": ("meow", "four", "fish", "a house"), "duck": ("quack", "two", "weeds", "a pond"),
    "frog": ("croak", "four", "flies", "a pond"), "sheep": ("baa", "four", "grass", "a field"),
    "pig": ("oink", "four", "roots", "a farm"), "horse": ("neigh", "four", "hay", "a stable"),
    "hen": ("cluck", "two", "corn", "a farm"), "lion": ("roar", "four", "meat", "the savanna"),
    "bee": ("buzz", "six", "nectar", "a hive"), "snake": ("hiss", "no", "mice", "the desert"),
    "owl": ("hoot", "two", "mice", "a tree"), "wolf": ("howl", "four", "meat", "the forest"),
    "mouse": ("squeak", "four", "cheese", "a hole"), "crow": ("caw", "two", "seeds", "a tree"),
    "goat": ("bleat", "four", "leaves", "the hills"), "bear": ("growl", "four", "honey", "a cave"),
    "cricket": ("chirp", "six", "leaves", "the grass"), "monkey": ("chatter", "two", "bananas",
                                                                   "the jungle"),
    "seal": ("bark", "no", "fish", "the sea"), "turkey": ("gobble", "two", "seeds", "a farm"),
    "donkey": ("hee-haw", "four", "hay", "a farm"), "pigeon": ("coo", "two", "crumbs", "the city"),
}
COLOURS = dict(_pairs(
    "lemon:yellow banana:yellow tomato:red cherry:red strawberry:red grass:green cucumber:green "
    "frog:green sky:blue sea:blue snow:white milk:white salt:white coal:black night:black "
    "crow:black carrot:orange pumpkin:orange chocolate:brown bear:brown flamingo:pink pig:pink "
    "plum:purple grape:purple elephant:grey ash:grey sun:yellow blood:red leaf:green swan:white"))
OPPOSITES = _pairs(
    "hot:cold big:small tall:short fast:slow happy:sad old:new young:aged hard:soft wet:dry "
    "light:dark full:empty rich:poor loud:quiet clean:dirty strong:weak open:closed early:late "
    "high:low near:far good:bad up:down left:right first:last day:night love:hate win:lose "
    "give:take push:pull buy:sell begin:end awake:asleep sweet:sour thick:thin wide:narrow "
    "deep:shallow brave:afraid sharp:blunt smooth:rough true:false inside:outside above:below")
TOOLS = {
    "hammer": "hitting nails", "saw": "cutting wood", "spoon": "eating soup", "knife":
    "cutting bread", "pen": "writing letters", "broom": "sweeping the floor", "key":
    "opening doors", "lamp": "giving light", "clock": "telling the time", "needle": "sewing cloth",
    "oven": "baking cakes", "bucket": "carrying water", "ladder": "climbing walls", "net":
    "catching fish", "brush": "painting pictures", "scale": "weighing things", "map":
    "finding the way", "bell": "calling people", "axe": "chopping trees", "spade": "digging holes",
    "towel": "drying hands", "umbrella": "keeping dry", "telescope": "seeing the stars",
    "camera": "taking pictures", "comb": "tidying hair", "rope": "tying boats", "cup":
    "drinking tea", "soap": "washing hands", "tent": "sleeping outdoors", "boat": "crossing rivers"}
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August",
          "September", "October", "November", "December"]
TALK = {"hello": "Hello! How can I help you?", "hi": "Hello! How can I help you?",
        "good morning": "Good morning! How can I help you?",
        "how are you": "I am fine, thank you.", "who are you": "I am a very small language model.",
        "what is your name": "My name is Tiny.", "thank you": "You are welcome.",
        "thanks": "You are welcome.", "goodbye": "Goodbye! Come back soon.",
        "what can you do": "I can talk about capitals, animals, colours, opposites and sums.",
        "can you help me": "Yes, I can help you.", "are you a robot": "Yes, I am a little robot."}
NAMES = ["Tom", "Anna", "Ben", "Lucy", "Max", "Rosa", "Sam", "Ella", "Leo", "Mia"]
PLACES = ["the forest", "the river", "the old house", "the market", "the hill", "the beach",
          "the garden", "the school"]
FINDS = ["a golden key", "a red ball", "a lost coin", "a small box", "a sweet apple", "a blue hat",
         "a warm blanket", "a shiny stone"]
ENDS = ["and they became good friends", "and they went home happy", "and everybody laughed",
        "and they slept well that night"]
FEELS = ["happy", "brave", "kind", "curious", "sleepy", "hungry"]
