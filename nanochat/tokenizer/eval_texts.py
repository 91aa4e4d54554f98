"""Small texts by domain, on which tokenizers are measured. Changing one changes every figure: only append."""

_PROSE = """\
The ferry left the island at seven, as it had done every morning since the war, and old Marta stood at the \
rail with her basket of eggs and looked back at the lighthouse until the fog had swallowed it. She was not \
sentimental about the place. Her mother had scrubbed its stairs for thirty years and had never once been \
asked to climb to the top, and when the keeper finally offered, in the last summer of her life, she told him \
that she had seen quite enough of those steps from below, thank you.

What Marta could not explain, not even to her brother, was why she had begun to count them in her sleep. \
There were a hundred and eighty-two. She would reach the last one, put her hand on the cold iron of the \
door, and wake up. Nobody had told her the number. "You must have heard it somewhere," he said, buttering \
his bread. "People talk, and children listen." Perhaps they did; yet the doctor, who had lived on the island \
longer than either of them, didn't know it, and the parish book gave a different figure altogether.

So on this particular Tuesday, before the boat came, she had walked up the path in the dark with a lamp and \
a borrowed key. The stairs smelled of salt and old rope. She counted aloud, because it seemed more honest \
that way, and when she came to the end of them she stood for a long time with her hand on the door.
"""

_DICTIONARY = """\
ember, n. A small piece of glowing coal or wood in a dying fire; (in the plural) the smouldering remains of a \
fire. Also fig.: the embers of a quarrel.
embezzle, v.t. To take fraudulently for one's own use what was entrusted to one's care, as money. \
-- embezzlement, n.; embezzler, n.
emboss, v.t. 1. To raise a design above a surface, as on leather or paper. 2. To decorate with raised work. \
Syn. -- chase, stud.
embrasure, n. (Fort.) An opening in a wall or parapet, wider within than without, from which guns are fired; \
(Arch.) the slant of a window or door.
embroil, v.t. To throw into confusion; to involve in strife. [F. embrouiller.]
emerge, v.i. To rise out of a fluid; to come into view, as from concealment; to become known.
emeritus, a. Retired with honour, and keeping the title of one's office: a professor emeritus.
emery, n. (Min.) A dark, granular variety of corundum, used in powder for grinding and polishing.
emigrate, v.i. To leave one's country in order to settle in another. Opposed to immigrate.
eminent, a. 1. High; lofty. [Obs.] 2. Standing above others in rank, merit, or repute; distinguished.
"""

_CODE = '''\
from collections import deque
from dataclasses import dataclass, field


@dataclass
class Grid:
    """A rectangular maze; `walls` holds the (row, column) pairs that cannot be entered."""

    height: int
    width: int
    walls: set[tuple[int, int]] = field(default_factory=set)

    def neighbours(self, cell):
        row, column = cell
        for d_row, d_column in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            step = (row + d_row, column + d_column)
            if 0 <= step[0] < self.height and 0 <= step[1] < self.width and step not in self.walls:
                yield step


def shortest_path(grid, start, goal):
    """Breadth-first search. Returns the cells from start to goal, or None when there is no way."""
    came_from = {start: None}
    queue = deque([start])
    while queue:
        cell = queue.popleft()
        if cell == goal:
            path = []
            while cell is not None:
                path.append(cell)
                cell = came_from[cell]
            return path[::-1]
        for step in grid.neighbours(cell):
            if step not in came_from:
                came_from[step] = cell
                queue.append(step)
    return None


if __name__ == "__main__":
    maze = Grid(height=8, width=12, walls={(r, 5) for r in range(7)})
    path = shortest_path(maze, (0, 0), (0, 11))
    print(f"{len(path)} cells" if path else "no way through")
    assert path is None or path[0] == (0, 0), "a path begins where it starts"
'''

_ARITHMETIC = """\
17 + 25 = 42. 308 - 149 = 159. 64 * 12 = 768. 945 / 15 = 63. 7 ** 3 = 343. 1000 - 3 * 271 = 187.
A train covers 276 km in 3 hours, so it goes 276 / 3 = 92 km/h; in 45 minutes it covers 92 * 0.75 = 69 km.
3.14159 * 12^2 = 452.38896, which rounds to 452.4. 15% of 2,480 is 0.15 * 2480 = 372.00.
2/3 + 5/8 = 16/24 + 15/24 = 31/24 = 1 7/24. sqrt(1764) = 42, since 42 * 42 = 1764.
(48 + 36) * (19 - 7) = 84 * 12 = 1008; 1008 / 16 = 63; 63 mod 8 = 7.
9,876,543 + 1,234,567 = 11,111,110. 2^16 = 65,536 and 2^32 = 4,294,967,296.
At $3.49 each, 14 notebooks cost 14 * 3.49 = $48.86; from $50.00 that leaves $1.14 in change.
x^2 - 7x + 12 = 0 gives (x - 3)(x - 4) = 0, so x = 3 or x = 4. Check: 9 - 21 + 12 = 0; 16 - 28 + 12 = 0.
"""

_KOREAN = """\
할머니는 매일 아침 여섯 시에 일어나 마당을 쓸고 닭에게 모이를 주셨다. 그날은 밤새 눈이 내려서 길이 \
보이지 않았지만, \
할머니는 빗자루 대신 나무 삽을 들고 나가 대문 앞까지 좁은 길을 내셨다. "누가 온다고 이렇게 일찍 \
치우세요?" 하고 내가 \
묻자, 할머니는 웃으며 말씀하셨다. "아무도 안 와도 길은 있어야지. 길이 있으면 언젠가는 누군가 오는 법이란다."

서울에서 부산까지 고속 열차로 두 시간 반쯤 걸린다. 창밖으로 논과 낮은 산이 지나가고, 낙동강을 건너면 \
바다 냄새가 나는 \
듯하다. 부산은 한국에서 두 번째로 큰 도시이며, 항구와 시장, 그리고 해수욕장으로 유명하다. 여름에는 \
전국에서 사람들이 \
모여들어 바닷가가 파라솔로 가득 찬다.

인공지능 모델은 글자를 그대로 읽지 않고 먼저 토큰이라는 조각으로 나눈다. 한국어처럼 조사와 어미가 많은 \
언어에서는 이 \
조각을 어떻게 나누느냐에 따라 문장의 길이가 크게 달라진다.
"""

_CHINESE = """\
村口的老槐树下有一张石桌，夏天的傍晚，大家吃过饭就搬着竹椅到那里去乘凉。李爷爷总是坐在靠墙的位置，手里拿\
着一把旧蒲扇，\
给孩子们讲他年轻时跑船的故事。他说长江的水在三峡最急，船工们要喊着号子，一步一步把船拉上去。孩子们听得入\
了迷，连蚊子\
咬了也不觉得。

水在一个大气压下加热到一百摄氏度就会沸腾，变成水蒸气；冷却到零度以下，则会结成冰。冰的密度比水小，所以冰\
块能浮在水面\
上，冬天的湖也总是从上面开始结冰，鱼才能在下面活下来。

王老师问：“一个长方形的花园，长十二米，宽八米，周长是多少？”小明想了想，回答说：“长加宽是二十米，再乘以二\
，周长是四\
十米。”老师点点头，又问他面积是多少。这一次，他在纸上写了好一会儿，才说出“九十六平方米”。

语言模型先把文字切成词元，再根据前面的词元预测下一个。中文的词与词之间没有空格，因此切分的方法尤其重要。
"""

_ARABIC = """\
كان الخبّاز يفتح دكّانه قبل الفجر، فتصل رائحة الخبز إلى بيوت الحيّ قبل أن تشرق الشمس. وكان الأطفال \
يقفون أمام الباب في طريقهم إلى \
المدرسة، فيعطي كلّ واحد منهم رغيفًا صغيرًا ويقول: «من أكل خبزي حفظ درسي». ولم يكن أحد يعرف متى ينام هذا \
الرجل، لكنّ الجميع كانوا \
يعرفون أنّ بابه لا يُغلق في وجه جائع.

يبلغ طول نهر النيل أكثر من ستة آلاف كيلومتر، وهو يجري من وسط إفريقيا نحو الشمال حتى يصبّ في البحر \
المتوسط. وعلى ضفافه قامت واحدة \
من أقدم الحضارات في العالم، واعتمد الفلاحون على فيضانه السنوي الذي كان يترك وراءه تربة خصبة.

قالت المعلّمة: إذا كان ثمن الكتاب خمسة عشر دينارًا واشترينا أربعة كتب، فكم ندفع؟ رفعت سلمى يدها وأجابت: \
ستّين دينارًا. فقالت \
المعلّمة: أحسنتِ، وكم يبقى معنا من مئة دينار؟
"""

_HINDI = """\
गाँव के बाहर एक पुराना कुआँ था, जिसके पास नीम का एक बड़ा पेड़ खड़ा था। गर्मी की दोपहर में चरवाहे वहीं \
बैठकर अपनी रोटियाँ खाते और एक-दूसरे को \
कहानियाँ सुनाते। सबसे अच्छी कहानियाँ रामू काका सुनाते थे। वे कहते थे कि जब वे छोटे थे, तब इस कुएँ का \
पानी इतना मीठा था कि दूर-दूर से लोग घड़े \
लेकर आते थे।

भारत में बहुत-सी भाषाएँ बोली जाती हैं। हिन्दी देवनागरी लिपि में लिखी जाती है, जिसमें स्वरों की मात्राएँ \
व्यंजनों के साथ जुड़ती हैं। वर्षा ऋतु जून में \
आरम्भ होती है और किसान उसी समय धान की रोपाई करते हैं। यदि वर्षा समय पर न हो, तो पूरे वर्ष की फ़सल पर \
उसका असर पड़ता है।

शिक्षिका ने पूछा, "अगर एक टोकरी में चौबीस आम हैं और हम उन्हें छह बच्चों में बराबर बाँटें, तो हर बच्चे \
को कितने आम मिलेंगे?" मीना ने तुरन्त उत्तर \
दिया, "चार आम।" फिर उसने मुस्कराकर कहा, "पर मुझे तो पाँच चाहिए!"
"""

_JAPANESE = """\
駅前の小さな喫茶店は、朝七時に店を開ける。マスターは毎朝同じ時間に豆を挽き、常連のお客さんの顔を見ると、\
何も聞かずにコーヒーを淹れ始める。\
窓際の席には、いつも新聞を読んでいるおじいさんが座っていて、「今日は雨になりそうだね」と言うのが口ぐせだ\
った。

富士山は日本でいちばん高い山で、標高は三千七百七十六メートルある。夏になると多くの人が夜中に登り始め、頂\
上で日の出を待つ。天気がよければ、\
東京タワーや高いビルの上からもその姿を見ることができる。

日本語の文章では、漢字とひらがなとカタカナが混ざって使われる。単語のあいだにスペースを入れないので、コン\
ピューターが文を区切るのは意外に\
むずかしい。けれども、文字の種類が変わるところは、言葉の切れ目になっていることが多い。
"""

_THAI = """\
คุณยายตื่นแต่เช้ามืดทุกวันเพื่อทำกับข้าวใส่บาตร แล้วจึงพายเรือลำเล็กไปขายผักที่ตลาดน้ำ \
ฉันชอบนั่งอยู่หัวเรือ มองดูหมอกที่ลอยอยู่เหนือคลอง \
และฟังเสียงไก่ขันจากบ้านสองฝั่ง คุณยายบอกว่าสมัยก่อนน้ำในคลองใสจนมองเห็นปลา แต่เดี๋ยวนี้ต้องช่วยกันดูแลรักษา

ประเทศไทยมีสามฤดู คือ ฤดูร้อน ฤดูฝน และฤดูหนาว ข้าวเป็นพืชที่สำคัญที่สุด \
ชาวนาจะเริ่มดำนาเมื่อฝนแรกมาถึง และเก็บเกี่ยวในช่วงปลายปี \
กรุงเทพมหานครเป็นเมืองหลวงและเป็นเมืองที่มีประชากรมากที่สุด

ภาษาไทยเขียนติดกันโดยไม่เว้นวรรคระหว่างคำ การแบ่งคำจึงเป็นเรื่องยากสำหรับคอมพิวเตอร์
"""

_EMOJI = """\
Good morning! ☀️😀 Coffee first ☕️, then the gym 💪🏽, then work 👩🏽‍💻👨‍💻… 😴😴
Happy birthday 🎂🎉🎈 dear Lea!! 🥳🥳 Love from all of us 👨‍👩‍👧‍👦❤️💛💚💙
Match day ⚽️🏆 🇧🇷 vs 🇫🇷 — who wins? 🤔 👉 1️⃣ or 2️⃣ 👈
Weather: 🌧️ → ⛈️ → 🌈 → 🌤️ ✨ Packing list: 🧥🧦👟🧴🕶️📷🔋✅
That film 🎬 was 10/10 👏👏👏 I laughed 😂🤣, I cried 😭, I slept 😅 #nospoilers 🤐🙈🙉🙊
Recipe 🍝: 🍅🍅🧄🧅🫒🌿🧀 + ⏲️ 20 min = 😋❤️‍🔥 🐶 waits under the table 👀🦴
"""

EVAL_TEXTS: dict[str, str] = {
    "English prose": _PROSE,
    "dictionary": _DICTIONARY,
    "code": _CODE,
    "arithmetic": _ARITHMETIC,
    "Korean": _KOREAN,
    "Chinese": _CHINESE,
    "Japanese": _JAPANESE,
    "Arabic": _ARABIC,
    "Hindi": _HINDI,
    "Thai": _THAI,
    "emoji": _EMOJI,
}
