"""Prompts for sampling calibration chats: many kinds of request, none of them the demo's own prompts."""

from __future__ import annotations

PROMPTS = """
Summarise the plot of a story about a lighthouse keeper who stops sending letters.
Write a short letter to a landlord about a leaking tap.
What are the main differences between a lake and a sea?
Turn this into a formal sentence: "gonna be late, bus broke down, sorry".
Write a Python function that returns the n-th Fibonacci number without recursion.
Explain what a hash table is and when it is slow.
Solve step by step: a train covers 180 km in 2.5 hours. What is its average speed?
List seven things to pack for a weekend of hiking in the rain.
What did people use before refrigerators to keep food fresh?
Write a dialogue between two neighbours who disagree about a hedge.
Translate to French: "The library closes at six, but the reading room stays open until nine."
Give three arguments for and three against a four-day working week.
Describe the taste of an orange to somebody who has never eaten one.
What is the difference between weather and climate?
Write a SQL query that finds the ten customers with the highest total orders.
Why do cats purr?
Rewrite this sentence in the passive voice: "The committee rejected the second proposal."
How does a bill become a law in a parliamentary system?
Write the opening paragraph of a detective novel set in a small harbour town.
Explain recursion with an example from everyday life.
What is 17 times 23? Show how you work it out.
Write a product description for a wooden desk lamp.
How do vaccines train the immune system?
What should I check before I buy a used bicycle?
Write a haiku about the first frost, and explain your choice of words.
Explain the water cycle in five numbered steps.
What does an astronomer do all day?
Write a bash one-liner that counts the lines of all text files below a folder.
What does this code do? `return [x for xs in rows for x in xs if x > 0]`
Give me a recipe for lentil soup for four people, with quantities.
Write an apology to a colleague whose name I left off a report.
What are prime numbers, and why do they matter for encryption?
My houseplant has yellow leaves. What may be wrong, and what can I try?
Classify each as fruit or vegetable, and say why: tomato, carrot, cucumber, apple.
Describe a busy railway station at seven in the morning.
What is the difference between a virus and a bacterium?
Write a JavaScript function that removes duplicates from an array and keeps the order.
Explain compound interest with a worked example.
What happened during the Industrial Revolution?
Suggest a name and a slogan for a bakery that opens only at night.
Write a short speech for a friend's sixtieth birthday.
How can I tell whether an email is a scam?
What are the phases of the moon, in order?
Translate to Spanish: "Where can I buy a ticket for the evening boat?"
What is a good way to remember new vocabulary?
Write a limerick about a tortoise with a telephone.
Explain what an API is to a person who runs a restaurant.
Compare renting and buying a home.
How many litres are there in 3.5 cubic metres? Explain.
Write a news report of 100 words about a town that got its tram line back.
Correct the grammar: "Me and him was going to the shop when it start raining."
What is photosynthesis missing if there is light but no carbon dioxide?
Write a regular expression that matches a date such as 2024-03-09 and explain it.
How is paper made?
Describe the main character of a novel you would like to read.
What are the rules of draughts?
Write a polite refusal of a job offer.
Why is the sea salty?
Sort these by size: atom, galaxy, cell, planet, molecule, star.
Explain the offside rule in football.
Write a C function that reverses a string in place.
What is a metaphor? Give three examples.
How do I write a good question when I ask for technical help?
Plan a three-day visit to a city by the sea for a family with two children.
What is inflation, and who gains from it?
Write a conversation between a doctor and a patient with a sore shoulder.
Give the steps to change a bicycle's inner tube.
What is the difference between "affect" and "effect"?
A shirt costs 40 pounds and is reduced by 15 percent. What do I pay?
Summarise in one sentence: "Bees collect nectar. In doing so they carry pollen from flower to flower."
Write a class in Python for a bank account with deposit, withdraw and a history.
How did the ancient Egyptians build the pyramids?
Is it better to exercise in the morning or in the evening?
Write a fairy tale in which the dragon is the wise one.
What does an economist mean by "opportunity cost"?
Explain how a lock and a canal boat work together.
List the planets of the solar system with one fact about each.
What are the symptoms of dehydration?
Write a commit message for a change that fixes a crash on an empty input file.
Describe how to tie a bowline knot.
Explain the joke: "I used to be a banker, but I lost interest."
What is the boiling point of water on a high mountain, and why?
Write a poem of eight lines about a letter that arrives too late.
Translate to German: "My brother has forgotten his umbrella on the train again."
Give feedback on this opening: "It was a dark night. It was very dark. The man was scared."
How does a search engine decide which page comes first?
What is the difference between a crocodile and an alligator?
Write a checklist for leaving a holiday flat.
If all bloops are razzies and all razzies are lazzies, are all bloops lazzies?
Explain what a neural network learns, in plain words.
Write an advertisement for a second-hand piano.
What was the Silk Road?
How should I prepare for a difficult talk with my manager?
Convert 68 degrees Fahrenheit to Celsius and show the formula.
Write an HTML page with a heading, a list of three links and a footer.
What makes bread rise?
Name five inventions from the nineteenth century and what they changed.
Write a diary entry of a sailor on the tenth day without wind.
Explain the difference between a simile and a metaphor with examples.
What are the pros and cons of electric cars?
Tell me about the history of the umbrella.
How do noise-cancelling headphones work?
Write a text message that invites three friends to a board-game evening.
What is a healthy breakfast for somebody with little time?
Explain Newton's three laws of motion with one example each.
Write pseudo-code for binary search, and state its running time.
What do I need to know before I adopt a dog?
Give an example of a fair test in a school science experiment.
Describe a painting of a harbour in the fog.
Why do we have leap years?
Write the minutes of a short meeting of a village choir.
What is the difference between a comet and an asteroid?
Suggest five titles for an essay about the history of salt.
How can a small shop compete with a large supermarket?
Write a monologue of an old clock in a waiting room.
Explain how to multiply two fractions.
What is the plot of Romeo and Juliet?
Write a Rust function that sums the even numbers of a slice.
How do I make a good cup of coffee without a machine?
What is empathy, and can it be taught?
Draft an email to a school to ask about evening classes in pottery.
What are tectonic plates?
Make a table in Markdown that compares tea, coffee and cocoa.
How do airplanes stay in the air?
Write three interview questions for a beekeeper, with likely answers.
Translate to Italian: "The bread is fresh, but the cheese has gone off."
What is the Pythagorean theorem used for?
Explain the difference between correlation and causation.
Write a scene in which two chess players talk about everything but chess.
What are good manners on a crowded bus?
Debug this: `for i in range(len(xs)): if xs[i] == 0: xs.pop(i)`
How long does it take light to reach us from the Sun?
What is a sonnet?
Give directions to the museum: left at the church, over the bridge, second street right.
Why do onions make us cry?
Write a short biography of an imaginary astronomer.
Which is heavier, a kilogram of feathers or a kilogram of iron? Explain.
How does a thermostat work?
What are the duties of a ship's cook?
Write a review of a film about a lost violin.
Explain what "supply and demand" means at a fish market.
How can I reduce the waste of my household?
Write a JSON object that describes a book with title, authors, year and three tags.
What is the difference between a dialect and a language?
Tell me a riddle and its solution.
How would you explain death to a six-year-old whose goldfish died?
Name the bones of the human arm.
Write instructions for a robot vacuum cleaner, in the style of an old-fashioned butler.
Calculate the area of a triangle with base 12 and height 7.
""".strip().splitlines()

SYSTEM_PROMPTS = (
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
    "You are a patient teacher. Answer in short, clear paragraphs.",
    "You are a concise technical assistant. Prefer lists and code to long prose.",
)

FOLLOW_UPS = (
    "Can you give an example?",
    "Please say that in two sentences.",
    "Why is that so?",
    "What should I do next?",
    "I did not understand the second part. Can you put it differently?",
    "And what are the risks?",
    "Thanks! How would you explain it to an expert?",
    "Is there another way?",
)
